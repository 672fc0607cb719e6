// Questions to the control API of the server that this page came from.

const KEY = 'ringway-token';
const PATIENCE_MS = 8000;

/** The API wants another token than it got. */
export class Unauthorised extends Error {}

/** The API answered, and said no. */
export class Refused extends Error {}

/** Keeps the token until the tab is closed. */
export function setToken(token) {
  sessionStorage.setItem(KEY, token);
}

export function hasToken() {
  return sessionStorage.getItem(KEY) !== null;
}

async function ask(path, options) {
  const headers = { Accept: 'application/json' };
  const token = sessionStorage.getItem(KEY);
  if (token !== null) {
    headers.Authorization = `Bearer ${token}`;
  }
  if (options.body !== undefined) {
    headers['Content-Type'] = 'application/json';
  }
  const signal = AbortSignal.timeout(PATIENCE_MS);
  const answer = await fetch(path, { ...options, headers, signal, cache: 'no-store', redirect: 'error' });
  if (answer.ok) {
    return answer.json();
  }
  let words = `status ${answer.status}`;
  try {
    words = (await answer.json()).error ?? words;
  } catch {
    // An answer without words: its status has to do.
  }
  if (answer.status === 401) {
    throw new Unauthorised(words);
  }
  throw new Refused(words);
}

/** GET: the JSON answer. Throws Unauthorised, Refused, or what fetch throws where nobody answers. */
export function get(path) {
  return ask(path, { method: 'GET' });
}

/** POST: the JSON answer. Throws as `get`. */
export function post(path, body) {
  return ask(path, { method: 'POST', body: JSON.stringify(body) });
}
