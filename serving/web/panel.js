// A part of the page that is loaded by itself: loading, empty, failed, or there.

import { Failure } from "./api.js";
import { h } from "./dom.js";

export class Panel {
  constructor(element, load, draw) {
    Object.assign(this, { element, load, draw, waiting: null, drawn: false });
    element.replaceChildren(h("div", { class: "loading" }, h("span", { class: "unseen" }, "Loading…")));
  }

  // Resolves to what went wrong, or null. An older load that is still on its way is given up.
  async refresh(...question) {
    this.waiting?.abort();
    const waiting = (this.waiting = new AbortController());
    this.element.setAttribute("aria-busy", "true");
    try {
      const answer = await this.load(waiting.signal, ...question);
      if (waiting.signal.aborted) return null;
      this.element.replaceChildren(...[this.draw(answer, ...question)].flat());
      this.element.classList.remove("old");
      this.drawn = true;
      return null;
    } catch (error) {
      if (error.name === "AbortError") return null;
      if (!(error instanceof Failure)) throw error;
      // What was read stays: old figures, marked as such, say more than none.
      if (this.drawn) this.element.classList.add("old");
      else this.element.replaceChildren(this.failure(error, question));
      return error;
    } finally {
      if (this.waiting === waiting) this.element.removeAttribute("aria-busy");
    }
  }

  failure(error, question) {
    return h("div", { class: "failed" }, h("p", {}, error.message),
      h("button", { type: "button", onclick: () => this.refresh(...question) }, "Try again"));
  }
}

export const empty = (title, ...more) => h("div", { class: "empty" }, h("p", {}, title), ...more.map((text) => h("p", { class: "muted" }, text)));
