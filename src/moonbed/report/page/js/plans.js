// A sampler as a list of linear combinations of its start, its noise and the answers of a network or a law (a plan),
// recorded in Python by running the sampler itself. Combinations are of double precision; vectors that no later line
// uses are given back, so that a thousand steps take the memory of a few.

import { arrayView } from "./codec.js";

const START = 0;
const NOISE = 1;
const NETWORK = 2;
const LAW = 3;
const STATE = 4;
const SUM = 5;

const OWN_KINDS = [NETWORK, LAW, SUM]; // whose vectors nobody else holds

/** A plan, decoded: for each line its kind, function, the lines that it combines, and where its numbers begin. */
export class Plan {
  /**
   * `code` and `numbers` (and `slope` or null): arrays of numbers, those of a whole plan or of one level.
   * `states`: t, alpha and sigma of each line of kind STATE, of a whole plan.
   */
  constructor(code, numbers, slope, states = null) {
    this.numbers = numbers;
    this.slope = slope;
    this.states = states;
    this.lines = [];
    let number = 0;
    for (let at = 0; at < code.length; ) {
      const [kind, f, terms, columns] = code.subarray(at, at + 4);
      const index = this.lines.length;
      const uses = Array.from(code.subarray(at + 4, at + 4 + terms), (back) => index - back);
      this.lines.push({ kind, f, uses, columns, number });
      number += terms + (kind === NETWORK ? columns + 1 : kind === LAW ? 2 : 0);
      at += 4 + terms;
    }
    if (number !== numbers.length) throw new Error(`a plan has ${numbers.length} numbers and uses ${number}`);
    this.lastUse = new Int32Array(this.lines.length);
    this.lines.forEach(({ uses }, index) => uses.forEach((used) => (this.lastUse[used] = index)));
  }

  /** The plan of a document's entry. */
  static read(plan, blob) {
    const view = (array) => (array ? arrayView(blob, array) : null);
    return new Plan(view(plan.code), view(plan.numbers), view(plan.slope), view(plan.states));
  }

  /** The first state over the start noise. */
  get firstScale() {
    const first = this.lines.find(({ kind }) => kind === STATE);
    return first.uses.length === 1 && first.uses[0] === 0 ? this.numbers[first.number] : 1;
  }

  /** Its numbers at guidance scale w: recorded at 2 and 3, linear in between and beyond. */
  at(w) {
    const { numbers, slope } = this;
    if (!slope || w === 2) return numbers;
    return Float64Array.from(numbers, (number, i) => number + (w - 2) * slope[i]);
  }

  /**
   * Yields each state, Float64Array (n dim), which stays the plan's where `kept` is true: {x, kept}.
   * `world`: {functions, n, dim, start() , noise(k)}; both of the latter give (n dim) numbers, noise those of draw k.
   */
  *run(world, w) {
    const { functions, n, dim } = world;
    const numbers = this.at(w);
    const vectors = new Array(this.lines.length);
    const spare = [];
    const room = () => spare.pop() ?? new Float64Array(n * dim);
    const input = new Float64Array(n * dim);
    let draws = 0;
    for (let i = 0; i < this.lines.length; i++) {
      const { kind, f, uses, columns, number } = this.lines[i];
      if (kind === START) vectors[i] = world.start();
      else if (kind === NOISE) vectors[i] = world.noise(draws++);
      else if (kind === STATE || kind === SUM) vectors[i] = combine(vectors, uses, numbers, number, room());
      else {
        combine(vectors, uses, numbers, number, input);
        const own = number + uses.length;
        const given = Array.from(numbers.subarray(own, own + columns));
        if (kind === NETWORK) vectors[i] = functions[f].run(input, n, given, numbers[own + columns], room());
        else vectors[i] = functions[f].denoise(input, n, numbers[own], numbers[own + 1], room());
      }
      for (const used of uses) {
        if (this.lastUse[used] === i && vectors[used]) {
          if (OWN_KINDS.includes(this.lines[used].kind)) spare.push(vectors[used]);
          vectors[used] = null;
        }
      }
      if (kind === STATE) yield { x: vectors[i], kept: this.lastUse[i] > i };
      if (this.lastUse[i] <= i) vectors[i] = null;
    }
  }
}

/** The combination of vectors, with coefficients numbers[number...], into `out`. */
function combine(vectors, uses, numbers, number, out) {
  if (uses.length === 0) return out.fill(0);
  for (let j = 0; j < uses.length; j += 2) {
    const [a, c] = [vectors[uses[j]], numbers[number + j]];
    const pair = j + 1 < uses.length;
    const [b, d] = pair ? [vectors[uses[j + 1]], numbers[number + j + 1]] : [a, 0];
    if (j === 0) for (let i = 0; i < out.length; i++) out[i] = c * a[i] + d * b[i];
    else for (let i = 0; i < out.length; i++) out[i] += c * a[i] + d * b[i];
  }
  return out;
}

/** A model's denoiser on a grid of noise levels, from the noise end (0) to the data end. */
export class Levels {
  constructor(levels, blob) {
    for (const name of ["t", "alpha", "sigma", "d_alpha", "d_sigma"]) this[name] = arrayView(blob, levels[name]);
    this.count = this.t.length;
    const [code, numbers] = [arrayView(blob, levels.code), arrayView(blob, levels.numbers)];
    const slope = levels.slope ? arrayView(blob, levels.slope) : null;
    const [codeAt, numbersAt] = [arrayView(blob, levels.code_at), arrayView(blob, levels.numbers_at)];
    this.plans = Array.from(this.t, (_, l) => {
      const numbersOf = (array) => array && array.subarray(numbersAt[l], numbersAt[l + 1]);
      return new Plan(code.subarray(codeAt[l], codeAt[l + 1]), numbersOf(numbers), numbersOf(slope));
    });
  }

  /** D(x, t_level) for n points x (n dim). */
  denoise(functions, level, w, x, n, dim) {
    if (!(level >= 0 && level < this.count)) throw new Error(`levels are 0 to ${this.count - 1}, given ${level}`);
    const noise = () => {
      throw new Error("a denoiser draws no noise");
    };
    let last = null;
    for (const { x: state } of this.plans[level].run({ functions, n, dim, start: () => x, noise }, w)) last = state;
    return last;
  }
}
