// The user who is signed in: a token, kept for this tab only.

const KEY = "vpt.token";
const RANK = { viewer: 0, operator: 1, admin: 2 };

export const session = { token: sessionStorage.getItem(KEY), user: "", name: "", role: "viewer" };
read();

/**
 * Sign in with the token of a link (`#token=…`); true when there was one.
 *
 * It is behind the # because browsers send that part to no server, neither as an address nor as a
 * referrer. It is removed from the address at once, so that it is in no bookmark and not seen.
 */
export function takeFromAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return false;
  history.replaceState(null, "", `${location.pathname}${location.search}#/lab`);
  if (given) signIn(given);
  return given !== "";
}

/** Store a token. */
export function signIn(token) {
  session.token = token;
  sessionStorage.setItem(KEY, token);
  read();
}

/** Delete the token. */
export function forget() {
  session.token = null;
  sessionStorage.removeItem(KEY);
  read();
}

/** Return whether the user may do what `role` may; the server checks it again. */
export function can(role) {
  return (RANK[session.role] ?? 0) >= RANK[role];
}

function read() {
  const claims = claimsOf(session.token);
  session.user = String(claims.user_id ?? claims.sub ?? ""); // as the server has it
  session.name = String(claims.user_id ?? claims.email ?? claims.sub ?? "");
  // Supabase's own tokens say "authenticated", and the role where users cannot edit it.
  const ours = "user_id" in claims || !("aud" in claims);
  const role = ours ? (claims.role ?? "operator") : claims.app_metadata?.role;
  session.role = Object.hasOwn(RANK, role) ? role : "viewer";
}

function claimsOf(token) {
  try {
    const bytes = Uint8Array.from(
      atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")),
      (c) => c.charCodeAt(0),
    );
    return JSON.parse(new TextDecoder().decode(bytes)) ?? {};
  } catch {
    return {};
  }
}
