// Follows an execution as a page does, and tells each thing that happens as a line of JSON.
// node follow.mjs CLIENT URL TRANSPORT TOKEN EXECUTION
const [, , client, url, transport, token, execution] = process.argv;
const { io, Fetch, WebSocket } = await import(client);

const say = (told) => console.log(JSON.stringify(told));
const options = {
  transports: [transport === "polling" ? Fetch : WebSocket],
  reconnectionDelay: 50,
  reconnectionDelayMax: 100,
  forceNew: true,
};

function refused(auth) {
  return new Promise((resolve) => {
    const stranger = io(url, { ...options, auth });
    stranger.on("connect", () => resolve("connected"));
    stranger.on("connect_error", (error) => {
      stranger.close();
      resolve(error.message);
    });
  });
}

say({ refused: await refused({}) });
say({ refused: await refused({ token: "nonsense" }) });

let seq = 0;
const socket = io(url, { ...options, auth: { token } });
socket.on("connect", async () => {
  say({ connected: true });
  try {
    const wish = { execution_id: execution, after_seq: seq };
    say({ answer: await socket.timeout(5000).emitWithAck("subscribe", wish) });
  } catch {
    // The connection was cut meanwhile: it asks again when it is back.
  }
});
socket.on("disconnect", (reason) => say({ disconnected: reason }));
socket.on("test_progress", (event) => {
  say({ event });
  seq = event.seq;
  if (["completed", "failed", "error", "cancelled"].includes(event.status)) socket.close();
});
