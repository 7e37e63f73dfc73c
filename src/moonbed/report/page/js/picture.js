/** The states of one sampling as the picture needs them: interleaved pairs u, one array a state. */

const TAIL = 0.14; // share of the run that a trail shows
const TAILED = 400; // particles that have one

export class Picture {
  /**
   * @param {import("./camera.js").Camera} camera
   * @param {number} dim
   * @param {{alpha: number, sigma: number, t: number, x: Float64Array}[]} states in their order
   */
  constructor(camera, dim, states) {
    this.camera = camera;
    this.levels = states.map(({ t, alpha, sigma }) => ({ t, alpha, sigma }));
    this.points = states.map(({ alpha, sigma, x }) => camera.project(x, dim, alpha, sigma));
    this.present = new Float32Array(this.points[0].length);
  }

  get n() {
    return this.present.length / 2;
  }

  /** Where a share of the run lies: the state before it and how far it is to the next. */
  place(share) {
    const last = this.points.length - 1;
    const before = Math.min(Math.floor(share * last), Math.max(last - 1, 0));
    return { before, after: Math.min(before + 1, last), part: last ? share * last - before : 0 };
  }

  /** The particles at a share of the run; straight lines between states. The array is reused. */
  at(share) {
    const { before, after, part } = this.place(share);
    const [a, b, u] = [this.points[before], this.points[after], this.present];
    for (let i = 0; i < u.length; i++) u[i] = a[i] + part * (b[i] - a[i]);
    return u;
  }

  /** t, alpha and sigma at a share of the run: t linear, the noise ratio geometric, between states. */
  level(share) {
    const { before, after, part } = this.place(share);
    const [a, b] = [this.levels[before], this.levels[after]];
    if (part === 0) return a;
    if (part === 1) return b;
    const mix = (p, q) => p + part * (q - p);
    return { t: mix(a.t, b.t), alpha: mix(a.alpha, b.alpha), sigma: mix(a.sigma, b.sigma) };
  }

  /** Particles that the picture's square does not hold. */
  outside(share) {
    const u = this.at(share);
    const { reach } = this.camera;
    let count = 0;
    for (let i = 0; i < u.length; i += 2) if (!(Math.abs(u[i]) <= reach && Math.abs(u[i + 1]) <= reach)) count++;
    return count;
  }

  /** The last stretch of the first particles' ways, as polylines [[x, y, x, y, ...]]. */
  tails(share) {
    const start = this.place(Math.max(share - TAIL, 0));
    const end = this.place(share);
    const count = Math.min(this.n, TAILED);
    return Array.from({ length: count }, (_, i) => {
      const line = this.mixed(i, start);
      for (let k = start.after; k <= end.before; k++) line.push(this.points[k][2 * i], this.points[k][2 * i + 1]);
      return [...line, ...this.mixed(i, end)];
    });
  }

  /** The whole way of particle i up to a share of the run. */
  way(i, share) {
    const end = this.place(share);
    const line = [];
    for (let k = 0; k <= end.before; k++) line.push(this.points[k][2 * i], this.points[k][2 * i + 1]);
    return [...line, ...this.mixed(i, end)];
  }

  mixed(i, { before, after, part }) {
    const [a, b] = [this.points[before], this.points[after]];
    return [0, 1].map((c) => a[2 * i + c] + part * (b[2 * i + c] - a[2 * i + c]));
  }
}

/** log10 of sigma/alpha, bounded so that ends without noise or without data have a place on an axis. */
export function logRatio({ alpha, sigma }) {
  return Math.log10(Math.min(Math.max(sigma / alpha || 0, 1e-3), 1e3));
}
