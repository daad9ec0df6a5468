// A lease that a view takes, keeps while it is shown, and gives back when it is left.

import { giveBack, write } from "./api.js";
import { session } from "./session.js";

const TERM = 120; // seconds; it ends by itself when the browser cannot give it back
const RENEW = 30_000; // milliseconds; browsers let hidden pages act once a minute only

/** Build a lease of the device at `path`; `changed(why)` is called when it was taken or lost. */
export function keptLease(path, signal, changed) {
  let token = null; // of who took it
  let timer = null;
  let own = false; // false: it was there before, for longer, and stays

  const end = () => {
    clearInterval(timer);
    if (token && own) giveBack(`${path}/lease`, token);
    token = null;
  };
  const renew = async () => {
    try {
      await write("POST", `${path}/lease`, { ttl_s: TERM });
    } catch (error) {
      if (error.status === 0 || error.status >= 500) return; // it may last longer than that
      clearInterval(timer);
      token = null;
      changed(error.message);
    }
  };
  addEventListener("pagehide", end, { signal });
  signal.addEventListener("abort", end);

  return {
    get held() {
      return token !== null;
    },
    /** Take it, unless the user has a `lease` that lasts longer than this one would. */
    async take(lease) {
      const left = lease?.holder === session.user ? Date.parse(lease.expires_at) - Date.now() : 0;
      own = left <= TERM * 1000;
      if (own) await write("POST", `${path}/lease`, { ttl_s: TERM });
      token = session.token;
      if (signal.aborted) return end();
      if (own) timer = setInterval(renew, RENEW);
      changed("");
    },
    async release() {
      clearInterval(timer);
      token = null;
      await write("DELETE", `${path}/lease`);
      changed("");
    },
  };
}
