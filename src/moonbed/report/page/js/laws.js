// Laws that are known exactly: mixtures of Gaussians, and of uniform laws on boxes. Each answers, for
// x_t = alpha x_0 + sigma eps, with E[x_0 | x_t] and log p(x_t), and draws x_0. All in double precision.

import { arrayView } from "./codec.js";
import { normalInterval } from "./special.js";

const LAW_BLOCK = 256; // points at once in the kernel's memory
const LEAST_VARIANCE = 1e-30; // points of no width, at no noise

/** The index of the first of ascending `sums` that is above u. */
function firstAbove(sums, u) {
  let low = 0;
  let high = sums.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sums[middle] > u) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Running sums of the weights, the last one 1. */
function runningShares(logWeights) {
  const sums = Float64Array.from(logWeights, Math.exp);
  for (let k = 1; k < sums.length; k++) sums[k] += sums[k - 1];
  return sums.map((sum) => sum / sums[sums.length - 1]);
}

/** sum_k w_k N(c_k, v_k): variances one for all or one each, and one for all coordinates or one each. */
export class MixtureLaw {
  constructor(law, blob, kernel) {
    this.dim = law.dim;
    this.kernel = kernel;
    this.centres = arrayView(blob, law.centres);
    this.logWeights = arrayView(blob, law.log_weights);
    this.variances = arrayView(blob, law.variances);
    this.size = this.logWeights.length;
    const [rows, columns] = [law.variances.shape[0], law.variances.shape[1] ?? 1];
    this.varianceStep = [rows === 1 ? 0 : columns, columns === 1 ? 0 : 1];
    this.shares = runningShares(this.logWeights);
    this.place();
  }

  place() {
    const count = (this.size + 1) & ~1;
    const room = (doubles) => this.kernel.alloc(8 * doubles);
    this.at = { bias: room(count), joint: room(count) };
    for (const name of ["c", "h", "m", "g"]) this.at[name] = room(count * this.dim);
    for (const name of ["x", "mean"]) this.at[name] = room(LAW_BLOCK * this.dim);
    for (const name of ["total", "top"]) this.at[name] = room(LAW_BLOCK);
    this.count = count;
    this.level = [NaN, NaN];
  }

  variance(k, d) {
    return this.variances[k * this.varianceStep[0] + d * this.varianceStep[1]];
  }

  /** What the kernel needs of each Gaussian at a noise level. */
  prepare(alpha, sigma) {
    if (this.level[0] === alpha && this.level[1] === sigma) return;
    this.level = [alpha, sigma];
    const { dim, count, size, centres } = this;
    const bias = this.kernel.doubles(this.at.bias, count);
    const [c, h, m, g] = ["c", "h", "m", "g"].map((name) => this.kernel.doubles(this.at[name], count * dim));
    bias.fill(-Infinity);
    for (let k = 0; k < size; k++) {
      bias[k] = this.logWeights[k];
      for (let d = 0; d < dim; d++) {
        const own = this.variance(k, d);
        const v = Math.max(alpha * alpha * own + sigma * sigma, LEAST_VARIANCE);
        const at = d * count + k;
        c[at] = alpha * centres[k * dim + d];
        h[at] = -1 / (2 * v);
        g[at] = (alpha * own) / v;
        m[at] = centres[k * dim + d] - g[at] * c[at];
        bias[k] -= Math.log(2 * Math.PI * v) / 2;
      }
    }
  }

  /** Calls `take(start, n, mean, total, top)` for each block of the n points x. */
  blocks(x, n, alpha, sigma, take) {
    this.prepare(alpha, sigma);
    const { kernel, at, dim, count } = this;
    const [points, mean] = [at.x, at.mean].map((address) => kernel.doubles(address, LAW_BLOCK * dim));
    const [total, top] = [at.total, at.top].map((address) => kernel.doubles(address, LAW_BLOCK));
    for (let start = 0; start < n; start += LAW_BLOCK) {
      const rows = Math.min(LAW_BLOCK, n - start);
      points.set(x.subarray(start * dim, (start + rows) * dim));
      kernel.mixture(at.mean, at.total, at.top, at.x, rows, dim, count, at.bias, at.c, at.h, at.m, at.g, at.joint);
      take(start, rows, mean, total, top);
    }
  }

  /** E[x_0 | x_t = x] for n points x (n, dim), into `out`. */
  denoise(x, n, alpha, sigma, out) {
    const take = (start, rows, mean) => out.set(mean.subarray(0, rows * this.dim), start * this.dim);
    this.blocks(x, n, alpha, sigma, take);
    return out;
  }

  /** log p(x_t = x) for n points, in nats, into `out` (n). */
  logDensity(x, n, alpha, sigma, out) {
    this.blocks(x, n, alpha, sigma, (start, rows, _, total, top) => {
      for (let i = 0; i < rows; i++) out[start + i] = top[i] + Math.log(total[i]);
    });
    return out;
  }

  /** n independent draws of x_0, (n, dim). */
  draw(n, random) {
    const { dim, centres } = this;
    const out = random.normal(n * dim);
    for (let i = 0; i < n; i++) {
      const k = firstAbove(this.shares, random.uniform());
      for (let d = 0; d < dim; d++) {
        out[i * dim + d] = centres[k * dim + d] + Math.sqrt(this.variance(k, d)) * out[i * dim + d];
      }
    }
    return out;
  }
}

/** Uniform laws on boxes [low, low + width], mixed by their weights; see special.js for the intervals. */
export class BoxesLaw {
  constructor(law, blob) {
    this.dim = law.dim;
    this.low = arrayView(blob, law.low);
    this.width = arrayView(blob, law.width);
    this.logWeights = arrayView(blob, law.log_weights);
    this.size = this.logWeights.length;
    this.shares = runningShares(this.logWeights);
    this.joint = new Float64Array(this.size);
    this.share = new Float64Array(this.size * this.dim);
  }

  /** Of point i: log w_k p(x | k) into `joint`, E[(x_0 - low)/width | x, k] into `share`; gives the greatest joint. */
  weigh(x, i, alpha, sigma) {
    const { dim, low, width, joint, share } = this;
    let most = -Infinity;
    for (let k = 0; k < this.size; k++) {
      joint[k] = this.logWeights[k];
      for (let d = 0; d < dim; d++) {
        const at = k * dim + d;
        if (sigma > 0) {
          const nearest = (alpha * low[at] - x[i * dim + d]) / sigma;
          const [logMass, inside] = normalInterval(nearest, (alpha * width[at]) / sigma);
          share[at] = inside;
          joint[k] += logMass - Math.log(alpha * width[at]);
        } else {
          share[at] = (x[i * dim + d] / alpha - low[at]) / width[at];
          joint[k] += share[at] >= 0 && share[at] < 1 ? -Math.log(alpha * width[at]) : -Infinity;
        }
      }
      most = Math.max(most, joint[k]);
    }
    return most;
  }

  denoise(x, n, alpha, sigma, out) {
    const { dim, low, width, joint, share } = this;
    if (sigma === 0) return out.set(x.map((value) => value / alpha)) ?? out;
    for (let i = 0; i < n; i++) {
      const most = this.weigh(x, i, alpha, sigma);
      let total = 0;
      out.fill(0, i * dim, (i + 1) * dim);
      for (let k = 0; k < this.size; k++) {
        const weight = Math.exp(joint[k] - most);
        total += weight;
        for (let d = 0; d < dim; d++) {
          out[i * dim + d] += weight * (low[k * dim + d] + share[k * dim + d] * width[k * dim + d]);
        }
      }
      for (let d = 0; d < dim; d++) out[i * dim + d] /= total;
    }
    return out;
  }

  logDensity(x, n, alpha, sigma, out) {
    for (let i = 0; i < n; i++) {
      const most = this.weigh(x, i, alpha, sigma);
      let total = 0;
      for (let k = 0; k < this.size; k++) total += Math.exp(this.joint[k] - most);
      out[i] = most === -Infinity ? most : most + Math.log(total);
    }
    return out;
  }

  draw(n, random) {
    const { dim, low, width } = this;
    const out = new Float64Array(n * dim);
    for (let i = 0; i < n; i++) {
      const k = firstAbove(this.shares, random.uniform());
      for (let d = 0; d < dim; d++) out[i * dim + d] = low[k * dim + d] + width[k * dim + d] * random.uniform();
    }
    return out;
  }
}

/** The law that a document describes. */
export function openLaw(law, blob, kernel) {
  if (law.kind === "mixture") return new MixtureLaw(law, blob, kernel);
  if (law.kind === "boxes") return new BoxesLaw(law, blob);
  throw new Error(`the exact law is not in the page: ${law.reason ?? law.kind}`);
}
