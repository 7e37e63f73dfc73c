/**
 * The state of the panel: one flat object, every value of it in the address behind the # as key=value.
 *
 * What comes from an address is never trusted: a value that the document does not offer is replaced by the default.
 */

import { OWN, alive, cost, inPlane } from "./menu.js";

export const COUNTS = [250, 500, 1000, 2000, 5000];
export const VIEWS = ["particles", "field", "density"];
export const SHOWS = ["learned", "exact", "both", "difference"];
export const NONE = "none";
export const SCALE = { min: 0, max: 10, step: 0.25 };

const DROPS = 12; // paths that can still be told apart
const FAR = 6; // units of the picture: beyond, nothing is seen
const SEEDS = 2 ** 31;
const BOUND = 3e10; // operations of a first picture: about two seconds in WebAssembly

/** A complete, valid state: of each value the one of `given` if it is valid, else that of `base`, else the default. */
export function settle(given, menu, base = {}) {
  const pick = (key, valid, otherwise) => {
    const found = [given, base].find((state) => Object.hasOwn(state, key) && valid(state[key]));
    return found ? found[key] : otherwise;
  };
  const model = menu.model(pick("model", (label) => menu.model(label), menu.first().label));
  const n = pick("n", (value) => COUNTS.includes(value), 1000);
  const w = model.guidance && pick("w", Number.isFinite, model.guidance.scale);
  const exact = menu.exactOf(model);
  return {
    model: model.label,
    ...pickPlan(pick, menu, model, n),
    n,
    seed: pick("seed", (value) => Number.isInteger(value) && value >= 0 && value < SEEDS, 1),
    w: model.guidance ? Math.min(Math.max(w, SCALE.min), SCALE.max) : null,
    view: inPlane(model) ? pick("view", (value) => VIEWS.includes(value), "particles") : "particles",
    show: pick("show", (value) => SHOWS.includes(value), "both"),
    beside: pick("beside", (label) => label === NONE || beside(menu.model(label), model), exact ? exact.label : NONE),
    trails: pick("trails", (value) => typeof value === "boolean", false),
    t: Math.min(Math.max(pick("t", Number.isFinite, 1), 0), 1),
    drops: pick("drops", (value) => Array.isArray(value) && value.every(isPlace), []).slice(-DROPS),
  };
}

/** The plan of a first look where the model's own is too slow for one: as many evaluations as are quick; else null. */
export function cheaper(menu, model, n) {
  const own = model.plans[0];
  if (!own || cost(model, own, n) <= BOUND) return null;
  const relatives = model.plans.filter((plan) => plan.sampler === own.sampler && plan.steps < own.steps);
  const alike = model.plans.filter((plan) => plan.stochastic === own.stochastic && plan !== own);
  const pool = [relatives, alike, model.plans.slice(1)].find((plans) => plans.length) || [];
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
  ["drops", (text) => (text ? text.split(";").map((place) => place.split(",").map(readNumber)) : [])],
]);

function pickPlan(pick, menu, model, n) {
  const names = menu.samplers(model).map(({ value }) => value);
  const sampler = pick("sampler", (value) => names.includes(value), null);
  if (!names.length) return { sampler: OWN, steps: 0 };
  if (sampler) return { sampler, steps: menu.plan(model, sampler, pick("steps", Number.isFinite, 32)).steps };
  const plan = cheaper(menu, model, n);
  return plan ? { sampler: plan.sampler, steps: plan.steps } : { sampler: OWN, steps: model.plans[0].steps };
}

function beside(other, model) {
  return Boolean(other) && other.index !== model.index && alive(other);
}

function isPlace(place) {
  return Array.isArray(place) && place.length === 2 && place.every((value) => Math.abs(value) <= FAR);
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
