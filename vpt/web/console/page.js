// Shows how the server is, without a token: /api/health is public.
document.getElementById("origin").textContent = location.origin;

async function show() {
  const line = document.getElementById("health");
  try {
    const health = await (await fetch("/api/health")).json();
    line.textContent = `The server is ${health.status}.`;
    document.getElementById("checks").replaceChildren(
      ...Object.entries(health.checks).flatMap(([name, well]) => {
        const term = document.createElement("dt");
        const value = document.createElement("dd");
        term.textContent = name.replaceAll("_", " ");
        value.textContent = well ? "well" : "not well";
        return [term, value];
      }),
    );
  } catch {
    line.textContent = "The server does not answer.";
  }
}

show();
setInterval(show, 10000);
