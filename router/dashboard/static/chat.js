// A small chat over /v1/chat/completions, as any client would do it, with what the server says of the timing.

import { byId, make } from "./dom.js";
import { bytes, ms } from "./format.js";
import { events, NeedsKey } from "./stream.js";

const MAX_TOKENS = 160;
const TEMPERATURE = 0.3; // small models wander off above

export class Chat {
  constructor(onNeedsKey) {
    this.talk = byId("talk");
    this.messages = [];
    this.onNeedsKey = onNeedsKey;
    this.running = null; // an AbortController while an answer comes
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.running ? this.running.abort() : this.ask();
    });
    byId("question").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !this.running) {
        event.preventDefault();
        this.ask();
      }
    });
    byId("clear").addEventListener("click", () => {
      this.running?.abort();
      this.messages = [];
      this.talk.replaceChildren();
    });
  }

  async ask() {
    const field = byId("question");
    const text = field.value.trim();
    if (!text) return;
    field.value = "";
    this.bubble("user", text);
    const messages = this.messages;
    messages.push({ role: "user", content: text });
    const answer = this.bubble("assistant open", "");
    this.begin(new AbortController());
    try {
      const timing = await this.stream(messages, answer);
      messages.push({ role: "assistant", content: answer.textContent });
      if (timing) this.how(timing);
    } catch (error) {
      if (error instanceof NeedsKey) this.onNeedsKey();
      if (error.name === "AbortError") messages.push({ role: "assistant", content: answer.textContent });
      else {
        messages.pop();
        answer.classList.add("error");
        answer.textContent += answer.textContent ? `\n(${error.message})` : error.message;
      }
    } finally {
      answer.classList.remove("open");
      this.begin(null);
    }
  }

  /** Writes the answer as it comes. Returns what the last chunk says of the timing. */
  async stream(messages, answer) {
    const body = {
      messages, stream: true, max_tokens: MAX_TOKENS, temperature: TEMPERATURE, timing: true,
      stream_options: { include_usage: true },
    };
    let found = null;
    for await (const { data } of events("v1/chat/completions", { body, signal: this.running.signal })) {
      if (data === "[DONE]") continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      const text = chunk.choices[0]?.delta?.content;
      if (text) {
        answer.append(text);
        this.follow();
      }
      if (chunk.timing) found = { ...chunk.timing, usage: chunk.usage };
    }
    return found;
  }

  begin(controller) {
    this.running = controller;
    const button = byId("send");
    button.textContent = controller ? "Stop" : "Send";
    button.classList.toggle("stop", Boolean(controller));
  }

  how({ ttft_ms: ttft, total_ms: total, usage, transfer_bytes: moved, transfer_ms: transfer, prefill, decode }) {
    const rate = usage.completion_tokens > 1 ? ((usage.completion_tokens - 1) * 1000) / (total - ttft) : 0;
    const parts = [`first token ${ms(ttft)}`, `${rate.toFixed(0)} tokens/s`];
    if (moved) parts.push(`${bytes(moved)} of KV, ${ms(transfer.exposed)} exposed`);
    if (prefill && decode) parts.push(`${prefill.node} → ${decode.node}`);
    this.talk.append(make("div", "how", {}, parts.join(" · ")));
    this.follow();
  }

  bubble(kind, text) {
    const element = make("div", `said ${kind}`, {}, text);
    this.talk.append(element);
    this.follow();
    return element;
  }

  follow() {
    this.talk.scrollTop = this.talk.scrollHeight;
  }
}
