// Requests to the service: the token, waiting while it is busy, and errors as one kind.

const KEPT = "featurecache-token";
const LONGEST_WAIT = 30; // seconds between two tries
const TRIES = 20;

export class Problem extends Error {
  constructor(code, message, status = 0, body = null) {
    super(message);
    this.code = code;
    this.status = status;
    this.body = body;
  }
}

let token = kept();
let asking = null;
let askForToken = async () => "";
let sayBusy = () => {};

function kept() {
  try {
    return sessionStorage.getItem(KEPT) ?? "";
  } catch {
    return "";
  }
}

export const hasToken = () => Boolean(token);

// Called where a token is wanted; both return promises or nothing.
export function setUp({ onToken, onBusy }) {
  askForToken = onToken;
  sayBusy = onBusy;
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

// Return the response of a request; ask for a token and wait for a busy service as often as needed.
export async function request(path, { method = "GET", body, headers = {}, signal } = {}) {
  for (let attempt = 1; ; attempt += 1) {
    const used = token;
    const sent = used ? { ...headers, Authorization: `Bearer ${used}` } : headers;
    let response;
    try {
      response = await fetch(path, { method, body, headers: sent, signal, credentials: "same-origin", cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem("unreachable", error.message);
    }
    if (response.status === 401) {
      if (token === used) await newToken(); // unless another request has got one in the meantime
      continue;
    }
    const wait = Number(response.headers.get("Retry-After"));
    if (response.status === 429 && attempt < TRIES) {
      const seconds = Math.min(LONGEST_WAIT, Math.max(1, wait || 1));
      sayBusy(seconds);
      await pause(seconds);
      continue;
    }
    return response;
  }
}

async function newToken() {
  asking ??= askForToken().finally(() => {
    asking = null;
  });
  token = await asking;
  try {
    sessionStorage.setItem(KEPT, token);
  } catch {
    // the token lasts as long as the page
  }
}

// Return the JSON of a request; raise a Problem for any other answer.
export async function json(path, options = {}) {
  const sends = options.json === undefined ? {} : { body: JSON.stringify(options.json), headers: { "Content-Type": "application/json" } };
  const response = await request(path, { ...options, ...sends });
  let body = null;
  try {
    body = await response.json();
  } catch {
    throw new Problem("no_json", `${response.status} ${response.statusText}`, response.status);
  }
  if (!response.ok) {
    const error = body.error ?? { code: "error", message: `${response.status} ${response.statusText}` };
    throw new Problem(error.code, error.message, response.status, body);
  }
  return body;
}

// Post the bytes of one image; return its one result, also if the image cannot be used.
export async function ask(path, file, signal) {
  const headers = { "Content-Type": "application/octet-stream" };
  try {
    const { results } = await json(path, { method: "POST", body: file, headers, signal });
    return results[0];
  } catch (problem) {
    if (problem.body?.results) return problem.body.results[0];
    throw problem;
  }
}

// Return the address of a cached image as a picture of this page, or null.
const pictures = new Map();
export function picture(sha256) {
  if (!pictures.has(sha256)) {
    const address = request(`cached/${sha256}`)
      .then(async (response) => (response.ok ? URL.createObjectURL(await response.blob()) : null))
      .catch(() => null);
    pictures.set(sha256, address);
  }
  return pictures.get(sha256);
}
