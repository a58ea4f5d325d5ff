// The few DOM verbs that everything here uses. Text goes in as text: nothing is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element with a class, attributes and children; a child is a node or a string. */
export function make(tag, className = "", attributes = {}, ...children) {
  return fill(document.createElement(tag), className, attributes, children);
}

export function makeSvg(tag, className = "", attributes = {}) {
  return fill(document.createElementNS(SVG, tag), className, attributes, []);
}

function fill(element, className, attributes, children) {
  if (className) element.setAttribute("class", className);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Sets text only where it differs, so that a screen that does not change is not laid out again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** The colour that a variable of the style sheet has now. */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A small table of figures: `{label: text}`, kept up to date in place. */
export class Figures {
  constructor(list) {
    this.list = list;
    this.cells = new Map();
  }

  show(values) {
    for (const [label, text] of Object.entries(values)) {
      let cell = this.cells.get(label);
      if (!cell) {
        cell = make("dd");
        this.cells.set(label, cell);
        this.list.append(make("div", "", {}, make("dt", "", {}, label), cell));
      }
      say(cell, text);
    }
  }
}
