/** The form of the panel: it shows a state, and tells what the reader changes as {key: value}. */

import { COUNTS, NONE, SCALE } from "./state.js";
import { alive, inPlane } from "./menu.js";
import { counted } from "./words.js";

const READERS = { model: String, beside: String, sampler: String, steps: Number, n: Number };

export class Controls {
  /**
   * @param {HTMLElement} root the panel
   * @param {import("./menu.js").Menu} menu
   * @param {(change: object) => void} onChange
   */
  constructor(root, menu, onChange) {
    this.root = root;
    this.menu = menu;
    this.onChange = onChange;
    this.fields = Object.fromEntries(
      [...root.querySelectorAll("[data-key]")].map((element) => [element.dataset.key, element]),
    );
    this.listen();
  }

  listen() {
    const { fields, onChange } = this;
    for (const [key, read] of Object.entries(READERS)) {
      fields[key].addEventListener("change", () => onChange({ [key]: read(fields[key].value) }));
    }
    fields.seed.addEventListener("change", () => onChange({ seed: Number.parseInt(fields.seed.value, 10) }));
    fields.trails.addEventListener("change", () => onChange({ trails: fields.trails.checked }));
    fields.w.addEventListener("input", () => onChange({ w: Number(fields.w.value) }));
    for (const key of ["view", "show"]) {
      fields[key].addEventListener("change", (event) => onChange({ [key]: event.target.value }));
    }
    this.root.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  }

  /** Make the form say what the state says. */
  show(state) {
    const { fields, menu } = this;
    const model = menu.model(state.model);
    const runs = alive(model);
    options(fields.model, menu.models.map(choiceOf), state.model);
    const others = menu.models.filter((other) => other.index !== model.index && alive(other));
    options(fields.beside, [{ value: NONE, text: "nothing" }, ...others.map(choiceOf)], state.beside);
    options(fields.sampler, menu.samplers(model), state.sampler);
    const steps = menu.steps(model, state.sampler).map((value) => ({ value, text: counted(value) }));
    options(fields.steps, steps, state.steps);
    options(fields.n, COUNTS.map((value) => ({ value, text: counted(value) })), state.n);
    if (Number(fields.seed.value) !== state.seed || !fields.seed.value) fields.seed.value = state.seed;
    fields.trails.checked = state.trails;
    this.showScale(state, model);
    this.showViews(state, model);
    for (const key of ["beside", "sampler", "steps", "n", "seed", "trails"]) fields[key].disabled = !runs;
    fields.steps.disabled ||= steps.length < 2;
    this.root.querySelector("#live-redraw").disabled = !runs;
    this.root.querySelector("#live-clear").hidden = state.drops.length === 0;
  }

  showScale(state, model) {
    const field = this.fields.w;
    field.closest("label").hidden = state.w === null;
    if (state.w === null) return;
    Object.assign(field, { min: SCALE.min, max: SCALE.max, step: SCALE.step, value: state.w });
    const own = state.w === model.guidance.scale ? " (its own)" : "";
    field.closest("label").querySelector("output").value = `${state.w}${own}`;
  }

  showViews(state, model) {
    for (const key of ["view", "show"]) {
      for (const input of this.fields[key].querySelectorAll("input")) {
        input.checked = input.value === state[key];
        input.disabled = key === "view" && input.value !== "particles" && !inPlane(model);
      }
    }
    const plain = state.view === "particles" || model.kind === "exact" || !this.menu.hasLaw(model);
    this.fields.show.hidden = plain;
  }
}

/** Why a view cannot be had; "" if all can. */
export function limitWords(model) {
  if (!alive(model)) return model.reason ? `Recorded samples only: ${model.reason}` : "Recorded samples only.";
  if (inPlane(model)) return "";
  if (model.dim === 2) return "It has no denoiser at every noise level: no field and no density.";
  const shown = model.dim > 2 ? `The first two of ${model.dim} coordinates` : "One dimension, spread over a band for the eye";
  return `${shown}. Fields and densities are drawn in two dimensions only.`;
}

const GROUPS = { learned: "Learned", exact: "Exact", recorded: "Recorded samples" };

function choiceOf(model) {
  return { value: model.label, text: model.label, group: GROUPS[model.kind] };
}

/** Fill a select anew only where its choices changed, so that an open one is left alone. */
function options(select, choices, value) {
  const key = JSON.stringify(choices);
  if (select.dataset.choices !== key) {
    select.dataset.choices = key;
    const groups = new Map(Object.values(GROUPS).map((label) => [label, made("optgroup", { label })]));
    const alone = [];
    for (const { value: name, text, group } of choices) {
      const option = made("option", { value: name, textContent: text });
      if (group) groups.get(group).append(option);
      else alone.push(option);
    }
    select.replaceChildren(...alone, ...[...groups.values()].filter((group) => group.children.length));
  }
  select.value = String(value);
}

function made(name, properties) {
  return Object.assign(document.createElement(name), properties);
}
