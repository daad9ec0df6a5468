// The user who is signed in: a token, kept for this tab only.

const KEY = "vpt.token";
const RANK = { viewer: 0, operator: 1, admin: 2 };

export const session = { token: null, ...userOf(null) };
keep(sessionStorage.getItem(KEY));

/**
 * Remove the token of a link (`#token=…`) from the address and return it, or "" when there is none.
 *
 * It is behind the # because browsers send that part to no server, neither as an address nor as a
 * referrer. It is removed from the address at once, so that it is in no bookmark and not seen.
 */
export function takeFromAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given !== null) history.replaceState(null, "", `${location.pathname}${location.search}#/lab`);
  return given ?? "";
}

/** Store a token. */
export function signIn(token) {
  sessionStorage.setItem(KEY, token);
  keep(token);
}

/** Delete the token. */
export function forget() {
  sessionStorage.removeItem(KEY);
  keep(null);
}

/** Return whether the user may do what `role` may; the server checks it again. */
export function can(role) {
  return (RANK[session.role] ?? 0) >= RANK[role];
}

/** Return the user of a token, as it says: only the server can check it. */
export function userOf(token) {
  const claims = claimsOf(token);
  // Supabase's own tokens say "authenticated", and the role where users cannot edit it.
  const ours = "user_id" in claims || !("aud" in claims);
  const role = ours ? (claims.role ?? "operator") : claims.app_metadata?.role;
  return {
    user: String(claims.user_id ?? claims.sub ?? ""), // as the server has it
    name: String(claims.user_id ?? claims.email ?? claims.sub ?? ""),
    role: Object.hasOwn(RANK, role) ? role : "viewer",
  };
}

function keep(token) {
  Object.assign(session, { token, ...userOf(token) });
}

function claimsOf(token) {
  try {
    const bytes = Uint8Array.from(
      atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")),
      (c) => c.charCodeAt(0),
    );
    const claims = JSON.parse(new TextDecoder().decode(bytes));
    return claims instanceof Object ? claims : {}; // any link can bring any text
  } catch {
    return {};
  }
}
