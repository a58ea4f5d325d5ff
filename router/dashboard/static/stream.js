// Server-sent events over fetch: unlike EventSource, it can send the key and can POST.

const KEY = "pagewire.key";

export class NeedsKey extends Error {}

/** The key is kept in this tab only. */
export const keep = (key) => sessionStorage.setItem(KEY, key);

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...more, authorization: `Bearer ${key}` } : more;
}

/** Yields `{event, data}` of each event, `data` as text. Throws NeedsKey, or Error with the server's words. */
export async function* events(path, { body = null, signal = null } = {}) {
  const reply = await fetch(path, {
    method: body ? "POST" : "GET",
    headers: headers(body ? { "content-type": "application/json" } : {}),
    body: body ? JSON.stringify(body) : null,
    signal,
    cache: "no-store",
  });
  if (reply.status === 401) throw new NeedsKey("an API key is needed");
  if (!reply.ok) throw new Error(await reason(reply));
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) yield parse(part);
  }
}

function parse(block) {
  const found = { event: "message", data: "" };
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) found.event = line.slice(7);
    if (line.startsWith("data: ")) found.data += line.slice(6);
  }
  return found;
}

async function reason(reply) {
  try {
    return (await reply.json()).error.message;
  } catch {
    return `the server answered ${reply.status}`;
  }
}
