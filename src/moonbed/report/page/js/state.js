/**
 * The state of the panel: one flat object, every value of it in the address behind the # as key=value.
 *
 * What comes from an address is never trusted: a value that the document does not offer is replaced by the default.
 */

import { OWN, alive, cost } from "./menu.js";

export const COUNTS = [250, 500, 1000, 2000, 5000];
export const VIEWS = ["particles", "field", "density"];
export const SHOWS = ["learned", "exact", "both", "difference"];
export const NONE = "none";
export const SCALE = { min: 0, max: 10, step: 0.25 };

const DROPS = 12; // paths that can still be told apart
const FAR = 6; // units of the picture: beyond, nothing is seen
const SEEDS = 2 ** 31;
const BOUND = 3e10; // operations of a first picture: about two seconds in WebAssembly

/** A complete, valid state from any object: what `given` lacks or has wrong comes from `base`, then from the defaults. */
export function settle(given, menu, base = {}) {
  const wish = { ...base, ...given };
  const model = menu.model(wish.model) || menu.model(base.model) || menu.first();
  const n = COUNTS.includes(wish.n) ? wish.n : 1000;
  const { sampler, steps } = settleSampler(wish, menu, model, n);
  const flat = model.dim !== 2;
  return {
    model: model.label,
    sampler,
    steps,
    n,
    seed: Number.isInteger(wish.seed) && wish.seed >= 0 && wish.seed < SEEDS ? wish.seed : 1,
    w: model.guidance ? within(wish.w, SCALE.min, SCALE.max, model.guidance.scale) : null,
    view: VIEWS.includes(wish.view) && !(flat && wish.view !== "particles") ? wish.view : "particles",
    show: SHOWS.includes(wish.show) ? wish.show : "both",
    beside: settleBeside(wish.beside, menu, model),
    trails: wish.trails === true,
    t: within(wish.t, 0, 1, 1),
    drops: Array.isArray(wish.drops) ? wish.drops.filter(isPlace).slice(-DROPS) : [],
  };
}

/** What a first look shows instead of a sampler that is too slow for it: as many evaluations as are quick; null if its own is. */
export function cheaper(menu, model, n) {
  const own = model.plans[0];
  if (!own || cost(model, own, n) <= BOUND) return null;
  const relatives = model.plans.filter((plan) => plan.sampler === own.sampler && plan.steps < own.steps);
  const pool = relatives.length ? relatives : model.plans.slice(1);
  const affordable = pool.filter((plan) => cost(model, plan, n) <= BOUND);
  const by = (a, b) => b.nfe - a.nfe;
  return affordable.sort(by)[0] || pool.sort(by).pop() || null;
}

/** The part of an address behind #, without it. */
export function toHash(state) {
  const told = { ...state, trails: state.trails ? 1 : null, t: round(state.t, 3) };
  told.drops = state.drops.map((place) => place.map((value) => round(value, 2)).join(",")).join(";") || null;
  return Object.entries(told)
    .filter(([, value]) => value !== null)
    .map(([key, value]) => `${key}=${escapeValue(String(value))}`)
    .join("&");
}

/** The values that an address gives, by their types; {} for an ordinary anchor. Nothing here is valid yet. */
export function fromHash(hash) {
  const given = {};
  for (const pair of hash.replace(/^#/, "").split("&")) {
    const at = pair.indexOf("=");
    const read = at > 0 ? READ.get(pair.slice(0, at)) : undefined;
    if (read) given[pair.slice(0, at)] = read(unescapeValue(pair.slice(at + 1)));
  }
  return given;
}

const READ = new Map([
  ...["model", "sampler", "view", "show", "beside"].map((key) => [key, String]),
  ...["steps", "n", "seed", "w", "t"].map((key) => [key, readNumber]),
  ["trails", (text) => text === "1"],
  ["drops", (text) => text.split(";").map((place) => place.split(",").map(readNumber))],
]);

function settleSampler(wish, menu, model, n) {
  const names = menu.samplers(model).map((sampler) => sampler.value);
  if (names.includes(wish.sampler)) {
    const steps = menu.plan(model, wish.sampler, Number.isFinite(wish.steps) ? wish.steps : 32).steps;
    return { sampler: wish.sampler, steps };
  }
  const plan = cheaper(menu, model, n);
  if (plan) return { sampler: plan.sampler, steps: plan.steps };
  return { sampler: OWN, steps: names.length ? model.plans[0].steps : 0 };
}

function settleBeside(wish, menu, model) {
  const other = menu.model(wish);
  if (other && other.index !== model.index && alive(other)) return other.label;
  const exact = menu.exactOf(model);
  return wish === NONE || !exact || !alive(model) ? NONE : exact.label;
}

function isPlace(place) {
  return Array.isArray(place) && place.length === 2 && place.every((value) => Math.abs(value) <= FAR);
}

function within(value, low, high, otherwise) {
  return Number.isFinite(value) ? Math.min(Math.max(value, low), high) : otherwise;
}

function readNumber(text) {
  return text.trim() === "" ? NaN : Number(text);
}

function round(value, digits) {
  return Number(value.toFixed(digits));
}

function escapeValue(text) {
  return encodeURIComponent(text).replace(/%20/g, "+").replace(/%2C/g, ",").replace(/%3B/g, ";").replace(/%3A/g, ":");
}

function unescapeValue(text) {
  try {
    return decodeURIComponent(text.replace(/\+/g, " "));
  } catch {
    return "";
  }
}
