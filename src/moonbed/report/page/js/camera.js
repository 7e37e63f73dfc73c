/**
 * From the coordinates of samples to the square of the picture and back.
 *
 * A state of noise level (alpha, sigma) has the mean alpha m and the variance alpha² v + sigma² a coordinate, where m
 * and v are those of the law. The picture shows
 *
 *     u = (x - alpha m) / sqrt(alpha² v + sigma²),
 *
 * which has mean 0 and variance 1 at every level and under every schedule. Without it, the states of a
 * variance-exploding schedule, of size sigma up to 80, would shrink to a point as they come to the data; with it, one
 * noise ratio sigma/alpha looks the same whatever schedule led there.
 */

export class Camera {
  /** @param {{mean: number[], variance: number, reach: number}} frame `reach`: the picture is [-reach, reach]² */
  constructor({ mean, variance, reach }) {
    this.mean = mean;
    this.variance = variance;
    this.reach = reach;
  }

  scale(alpha, sigma) {
    return Math.sqrt(alpha * alpha * this.variance + sigma * sigma) || 1;
  }

  /** States x (n rows of dim columns) as n interleaved pairs u. One dimension is drawn as a band. */
  project(x, dim, alpha, sigma) {
    const n = x.length / dim;
    const scale = 1 / this.scale(alpha, sigma);
    const u = new Float32Array(2 * n);
    for (let i = 0; i < n; i++) {
      u[2 * i] = (x[i * dim] - alpha * this.mean[0]) * scale;
      u[2 * i + 1] = dim > 1 ? (x[i * dim + 1] - alpha * this.mean[1]) * scale : jitter(i);
    }
    return u;
  }

  /** One place u of the picture in the coordinates of a level. */
  unproject(u, alpha, sigma) {
    const scale = this.scale(alpha, sigma);
    return [alpha * this.mean[0] + u[0] * scale, alpha * this.mean[1] + u[1] * scale];
  }

  /** The picture's square in the coordinates of a level, as an nx x ny grid. */
  grid(count, alpha, sigma) {
    const [x0, y0] = this.unproject([-this.reach, -this.reach], alpha, sigma);
    const [x1, y1] = this.unproject([this.reach, this.reach], alpha, sigma);
    return { x0, x1, y0, y1, nx: count, ny: count };
  }
}

/** Mean, variance a coordinate and reach of a law's parts: centres (or boxes) with their weights. */
export function frameOf(centres, spread, weights, dim = 2) {
  const mean = [0, 0];
  let variance = 0;
  let far = 0;
  const total = weights.reduce((sum, weight) => sum + weight, 0) || 1;
  centres.forEach(([x, y], k) => {
    mean[0] += (weights[k] / total) * x;
    mean[1] += (weights[k] / total) * y;
  });
  centres.forEach(([x, y], k) => {
    const square = ((x - mean[0]) ** 2 + (y - mean[1]) ** 2) / Math.min(dim, 2);
    variance += (weights[k] / total) * (square + spread[k] ** 2);
    far = Math.max(far, Math.abs(x - mean[0]) + 3 * spread[k], Math.abs(y - mean[1]) + 3 * spread[k]);
  });
  const reach = Math.min(Math.max(2.7, (1.08 * far) / Math.sqrt(variance || 1)), 6);
  return { mean, variance: variance || 1, reach };
}

/** The golden ratio's multiples: evenly spread without chance. */
function jitter(i) {
  return (((i * 0.618033988749895) % 1) - 0.5) * 1.2;
}
