/**
 * Addresses of a page, the part behind #: valid ones, and what mutations and strangers make of them, by a seed.
 *
 * `fuzzHashes(seed, count)` gives {inputs, troubles}. Whatever an address says, the state is one that the page offers,
 * its address gives the same state again, nothing is thrown, and nothing of it runs. Needs menu.js and state.js.
 */

/** A document with learned, exact and recorded models, and names that mean something to JavaScript or to an address. */
function strangeDocument() {
  const plan = (sampler, steps, stochastic = false) => ({ sampler, steps, nfe: steps, text: sampler, stochastic });
  const plans = [plan("DDIM", 50), plan("DDIM", 10), plan("Heun & Euler", 32), plan("__proto__", 8), plan("own", 5), plan("Ä;,=#%", 64, true)];
  const model = (name, more = {}) => ({ name, seed: 0, kind: "learned", dim: 2, parameters: 1e4, levels: [0, 1], law: 0, exact: null, plans: [0, 1], guidance: null, ...more });
  const models = [
    model("fast", { exact: 1, plans: [2, 0, 1, 3] }),
    model("exact", { kind: "exact", plans: [0, 1, 2, 3, 4, 5] }),
    model("fast", { seed: 1, parameters: 1e9, guidance: { scale: 1.5 } }),
    model("__proto__", { dim: 3, plans: [5] }),
    model("constructor", { kind: "recorded", plans: [] }),
    model("none", { levels: null, plans: [4] }),
    model("<script>canary()</script>&model=x#+%41", { plans: [3, 4], guidance: { scale: 99 } }),
    model("", { plans: [1] }),
  ];
  return { models, plans, laws: [{ kind: "none" }] };
}

/** Numbers in [0, 1) by a seed. */
function numbersBy(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const PIECES = [
  ..."#&=+%;,:.-<>\"'`\\/ \0\n0123456789eEnN\u00e4\u2028\ud800\udc00",
  ...["%41", "%zz", "%E0%A4%A", "%ff", "%00", "&&", "==", "__proto__", "constructor", "toString", "hasOwnProperty", "valueOf"],
  ...["NaN", "Infinity", "-Infinity", "-0", "1e999", "0x10", "1e-320", "9007199254740993", "2147483648", "-1", "null", "undefined", "true", "[]", "{}"],
  ...["javascript:canary()", "<script>canary()</script>", "${canary()}", "');canary();('", "<img src=x onerror=canary()>", "\u202e", "\ufeff"],
  ...["model=", "sampler=", "view=", "show=", "beside=", "steps=", "n=", "seed=", "w=", "t=", "trails=", "drops="],
];

/** An address: of a valid state, of a mutated one, of two spliced, or of nothing but pieces. */
function hashBy(chance, menu) {
  const below = (n) => Math.floor(chance() * n);
  const one = (list) => list[below(list.length)];
  const value = () => String(one([() => one(menu.models).label, () => one(menu.live.plans).sampler, () => String((chance() - 0.3) * 10 ** below(12)), () => one([...COUNTS, ...VIEWS, ...SHOWS, NONE, OWN]), () => one(PIECES)])());
  const place = () => `${((chance() - 0.5) * 14).toFixed(below(4))},${((chance() - 0.5) * 14).toFixed(2)}`;
  const valid = () => {
    const keys = ["model", "sampler", "steps", "n", "seed", "w", "view", "show", "beside", "trails", "t"].filter(() => chance() < 0.6);
    const pairs = keys.map((key) => `${key}=${encodeURIComponent(value().replace(/[\ud800-\udfff]/g, ""))}`);
    if (chance() < 0.4) pairs.push(`drops=${Array.from({ length: below(20) }, place).join(";")}`);
    return toHash(settle(fromHash(pairs.join("&")), menu)) + (chance() < 0.5 ? `&${pairs.join("&")}` : "");
  };
  let text = one([valid, valid, valid, () => `${valid().slice(0, below(120))}${valid().slice(below(120))}`, () => Array.from({ length: below(30) }, () => one(PIECES)).join("")])();
  for (let k = below(6); k > 0; k--) {
    const [at, to] = [below(text.length + 1), below(text.length + 1)];
    const change = below(5);
    if (change === 0) text = text.slice(0, at) + one(PIECES) + text.slice(at);
    if (change === 1) text = text.slice(0, Math.min(at, to)) + text.slice(Math.max(at, to));
    if (change === 2) text = text.slice(0, at) + String.fromCharCode(below(chance() < 0.9 ? 256 : 65536)) + text.slice(at + 1);
    if (change === 3) text = text.slice(0, at) + text.slice(at, to).repeat(1 + below(chance() < 0.01 ? 2000 : 3)) + text.slice(to);
    if (change === 4) text = text.replace(/=[^&]*/, () => `=${value()}`);
  }
  return chance() < 0.8 ? `#${text}` : text;
}

/** What is wrong with a state; "" where the page offers all of it. */
function wrongWith(state, menu) {
  const model = menu.model(state.model);
  if (!model) return "model";
  const samplers = menu.samplers(model).map((sampler) => sampler.value);
  const besides = menu.models.filter((other) => other !== model && alive(other)).map((other) => other.label);
  const valid = {
    sampler: samplers.includes(state.sampler) || (!samplers.length && state.sampler === OWN),
    steps: samplers.length ? menu.steps(model, state.sampler).includes(state.steps) : state.steps === 0,
    n: COUNTS.includes(state.n),
    seed: Number.isInteger(state.seed) && state.seed >= 0 && state.seed < 2 ** 31,
    w: model.guidance ? state.w >= SCALE.min && state.w <= SCALE.max : state.w === null,
    view: VIEWS.includes(state.view) && (inPlane(model) || state.view === "particles"),
    show: SHOWS.includes(state.show),
    beside: state.beside === NONE || besides.includes(state.beside),
    trails: typeof state.trails === "boolean",
    t: state.t >= 0 && state.t <= 1,
    drops: state.drops.length <= 12 && state.drops.every((place) => place.length === 2 && place.every((v) => Math.abs(v) <= 6)),
  };
  const unknown = Object.keys(state).filter((key) => key !== "model" && !Object.hasOwn(valid, key));
  return [...unknown, ...Object.keys(valid).filter((key) => valid[key] !== true)].join(", ");
}

function troubleWith(hash, menu, before) {
  const given = fromHash(hash);
  if (Object.getPrototypeOf(given) !== Object.prototype) return "a prototype";
  const state = settle(given, menu, before);
  const wrong = wrongWith(state, menu);
  if (wrong) return `not offered: ${wrong}`;
  const told = toHash(state);
  if (/[^\w%+.,;:!~*'()=&-]/.test(told)) return `an address with other characters: ${told}`;
  const again = toHash(settle(fromHash(`#${told}`), menu));
  return again === told ? "" : `${told} becomes ${again}`;
}

/** Try `count` addresses; `troubles` are [address, what is wrong], at most ten. */
function fuzzHashes(seed, count) {
  const [chance, menu, troubles] = [numbersBy(seed), new Menu(strangeDocument()), []];
  const held = () => [globalThis, Object.prototype, Array.prototype, Function.prototype].map((o) => Reflect.ownKeys(o).length).join();
  let fired = 0;
  globalThis.canary = () => (fired += 1);
  let state = settle({}, menu);
  const kept = held();
  for (let k = 0; k < count && troubles.length < 10; k++) {
    const hash = hashBy(chance, menu);
    try {
      const trouble = troubleWith(hash, menu, state) || (fired ? "it ran" : "") || (held() === kept ? "" : "a global");
      if (trouble) troubles.push([hash, trouble]);
      state = settle(fromHash(hash), menu, chance() < 0.5 ? state : {});
    } catch (error) {
      troubles.push([hash, String(error)]);
    }
  }
  delete globalThis.canary;
  return { inputs: count, troubles };
}
