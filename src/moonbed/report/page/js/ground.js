/**
 * What lies below the particles: densities as shades and lines, vector fields as arrows, errors as grey.
 *
 * Values stand on a count x count grid over the whole square, index j count + i, j upwards.
 */

/** Shades of one colour: the darker, the denser; `strength` is the opacity of the densest place. */
export function shade(context, size, values, count, rgb, strength) {
  const high = peak(values);
  const [pixel, full] = [pixelOf(rgb), 255 * strength];
  paint(context, size, count, (i) => ((full * Math.sqrt(Math.max(values[i], 0) / high)) << 24) | pixel);
}

/** Two colours: `less` where values are negative, `more` where they are positive, by their size over `high`. */
export function shadeSigned(context, size, values, count, less, more, high) {
  const [below, above] = [pixelOf(less), pixelOf(more)];
  const alpha = (value) => 255 * Math.min(Math.abs(value) / high, 1) ** 0.75;
  paint(context, size, count, (i) => (alpha(values[i]) << 24) | (values[i] < 0 ? below : above));
}

/** Lines around the smallest region that holds each of these shares of the mass. */
export function outline(context, size, values, count, shares, colour, width) {
  context.beginPath();
  for (const level of massLevels(values, shares)) trace(context, size, values, count, level);
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke();
}

/** Arrows through the middles of count x count cells; `unit` is the length in u of a vector of length 1. */
export function arrows(context, size, vectors, count, reach, unit, colour, width) {
  const factor = size / (2 * reach);
  const cell = size / count;
  context.beginPath();
  for (let j = 0; j < count; j++) {
    for (let i = 0; i < count; i++) {
      const at = 2 * (j * count + i);
      const [dx, dy] = [vectors[at] * unit * factor, -vectors[at + 1] * unit * factor];
      const length = Math.hypot(dx, dy);
      if (!(length > 0.35)) continue;
      const cut = Math.min(1, (1.6 * cell) / length);
      arrow(context, (i + 0.5) * cell, size - (j + 0.5) * cell, dx * cut, dy * cut, 0.28 * cell);
    }
  }
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.lineCap = "round";
  context.stroke();
}

/** The value below which a share of the entries' sizes lies. */
export function quantile(values, share) {
  const sorted = Float64Array.from(values, Math.abs).sort();
  return sorted[Math.floor(share * (sorted.length - 1))];
}

/** "rgb(1, 2, 3)" or "#010203" as [1, 2, 3]. */
export function channels(colour) {
  if (colour.startsWith("#")) {
    const digits = colour.length === 4 ? [...colour.slice(1)].map((d) => d + d) : colour.slice(1).match(/../g);
    return digits.slice(0, 3).map((pair) => parseInt(pair, 16));
  }
  return (colour.match(/[\d.]+/g) || [0, 0, 0]).slice(0, 3).map(Number);
}

function arrow(context, x, y, dx, dy, head) {
  const [ex, ey] = [x + dx / 2, y + dy / 2];
  const length = Math.hypot(dx, dy);
  const barb = Math.min(head, 0.45 * length) / length;
  context.moveTo(x - dx / 2, y - dy / 2);
  context.lineTo(ex, ey);
  context.moveTo(ex - barb * (dx + 0.6 * dy), ey - barb * (dy - 0.6 * dx));
  context.lineTo(ex, ey);
  context.lineTo(ex - barb * (dx - 0.6 * dy), ey - barb * (dy + 0.6 * dx));
}

function paint(context, size, count, pixelAt) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = count;
  const image = new ImageData(count, count);
  const pixels = new Uint32Array(image.data.buffer);
  for (let j = 0; j < count; j++) {
    for (let i = 0; i < count; i++) pixels[(count - 1 - j) * count + i] = pixelAt(j * count + i);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  const half = size / (count - 1) / 2; // grid points are at the middles of the image's pixels
  context.drawImage(canvas, -half, -half, size + 2 * half, size + 2 * half);
}

/** A colour as the lower three bytes of a pixel; the fourth is the opacity. */
function pixelOf([r, g, b]) {
  return (b << 16) | (g << 8) | r;
}

function peak(values) {
  let high = 0;
  for (const value of values) if (value > high) high = value;
  return high || 1;
}

function massLevels(values, shares) {
  const sorted = Float64Array.from(values).sort().reverse();
  const total = sorted.reduce((sum, value) => sum + value, 0);
  return shares.map((share) => {
    let sum = 0;
    for (const value of sorted) {
      sum += value;
      if (sum >= share * total) return value;
    }
    return 0;
  });
}

/** Marching squares: a segment in each cell that the level crosses, two where it crosses twice. */
function trace(context, size, values, count, level) {
  const step = size / (count - 1);
  const corner = [[0, 0], [1, 0], [1, 1], [0, 1]];
  for (let j = 0; j < count - 1; j++) {
    for (let i = 0; i < count - 1; i++) {
      const z = corner.map(([a, b]) => values[(j + b) * count + i + a] - level);
      const cuts = [];
      for (let e = 0; e < 4; e++) {
        const [p, q] = [z[e], z[(e + 1) % 4]];
        if (p > 0 === q > 0) continue;
        const part = p / (p - q);
        const [from, to] = [corner[e], corner[(e + 1) % 4]];
        cuts.push([i + from[0] + part * (to[0] - from[0]), j + from[1] + part * (to[1] - from[1])]);
      }
      for (let e = 0; e + 1 < cuts.length; e += 2) {
        context.moveTo(cuts[e][0] * step, size - cuts[e][1] * step);
        context.lineTo(cuts[e + 1][0] * step, size - cuts[e + 1][1] * step);
      }
    }
  }
}
