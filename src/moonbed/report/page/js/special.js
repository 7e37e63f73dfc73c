// Functions of the normal law, in double precision.
//
// erfcx(x) = exp(x^2) erfc(x) by a Chebyshev series of (1 + 2 x) erfcx(x) in (x - 3.75)/(x + 3.75), the variable of
// Shepherd and Laframboise (Chebyshev Approximation of (1 + 2x) exp(x^2) erfc x, 1981); relative error below 1e-14.

const ERFCX_SERIES = [
  1.1775789345674017, -0.004590054580646478, -0.08424913336651792, 0.05920993999819189,
  -0.026658668435305753, 0.009074997670705265, -0.002413163540417608, 0.0004907758365258086,
  -6.916973302501207e-05, 4.13902798607301e-06, 7.74038306619849e-07, -2.1886401049234397e-07,
  1.076499946567091e-08, 4.521959811218287e-09, -7.754400208831351e-10, -6.318088340886684e-11,
  2.86879501093067e-11, 1.9455868545777347e-13, -9.65469674843344e-13, 3.25254814814874e-14,
  3.3478119482868056e-14, -1.864562880419313e-15, -1.2507950530688648e-15, 7.418235256624044e-17,
];

/** exp(x^2) erfc(x). */
export function erfcx(x) {
  if (x < 0) return 2 * Math.exp(x * x) - erfcx(-x);
  const t = (x - 3.75) / (x + 3.75);
  let now = 0;
  let before = 0;
  for (let i = ERFCX_SERIES.length - 1; i > 0; i--) {
    const next = 2 * t * now - before + ERFCX_SERIES[i];
    before = now;
    now = next;
  }
  return (t * now - before + ERFCX_SERIES[0]) / (1 + 2 * x);
}

/** The error function, to 1e-15: near 0 by its Taylor series. */
export function erf(x) {
  const far = Math.abs(x);
  if (far > 6) return Math.sign(x);
  if (far > 0.7) return Math.sign(x) * (1 - erfcx(far) * Math.exp(-x * x));
  let term = x;
  let sum = x;
  for (let n = 1; n < 16; n++) {
    term *= -(x * x) / n;
    sum += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}

/** log P(z > n) of a standard normal z. */
export function logUpperTail(n) {
  if (n >= 0) return Math.log(erfcx(n * Math.SQRT1_2) / 2) - (n * n) / 2;
  return Math.log1p((-erfcx(-n * Math.SQRT1_2) / 2) * Math.exp((-n * n) / 2));
}

// Gauss and Legendre's nodes and weights on [0, 1], for intervals so narrow that differences of tails cancel.
const GAUSS_NODES = [
  0.005299532504175031, 0.0277124884633837, 0.06718439880608412, 0.1222977958224985,
  0.19106187779867811, 0.2709916111713863, 0.35919822461037054, 0.4524937450811813,
  0.5475062549188188, 0.6408017753896295, 0.7290083888286136, 0.8089381222013219,
  0.8777022041775016, 0.9328156011939159, 0.9722875115366163, 0.994700467495825,
];
const GAUSS_WEIGHTS = [
  0.013576229705877088, 0.031126761969323728, 0.0475792558412463, 0.062314485627767036,
  0.07479799440828835, 0.08457825969750132, 0.09130170752246182, 0.09472530522753432,
  0.09472530522753432, 0.09130170752246182, 0.08457825969750132, 0.07479799440828835,
  0.062314485627767036, 0.0475792558412463, 0.031126761969323728, 0.013576229705877088,
];

/**
 * A standard normal z and the interval [low, low + width]: [log P(in), E[(z - low)/width | in]].
 *
 * Mirrored so that its middle is not negative. With the hazard h(n) = phi(n)/P(z > n) of the nearer end n, and f the
 * farther, E[z | in] = h(n) (1 - phi(f)/phi(n))/(1 - P(z > f)/P(z > n)). The same as `interval` in targets/boxes.py.
 */
export function normalInterval(low, width) {
  const mirrored = low + width / 2 < 0;
  const n = mirrored ? -low - width : low;
  const narrow = width < 0.1 && width * (n + width / 2) < 10;
  const [logMass, share] = narrow ? narrowInterval(n, width) : wideInterval(n, width);
  const inside = Math.min(1, Math.max(0, share));
  return [logMass, mirrored ? 1 - inside : inside];
}

function wideInterval(n, width) {
  const above = logUpperTail(n);
  const beyond = Math.expm1(Math.min(-1e-12, logUpperTail(n + width) - above));
  const hazard = Math.sqrt(2 / Math.PI) / erfcx(Math.max(n, -30) * Math.SQRT1_2);
  const z = (hazard * Math.expm1(-width * (n + width / 2))) / beyond;
  return [above + Math.log(-beyond), (z - n) / width];
}

function narrowInterval(n, width) {
  let mass = 0;
  let first = 0;
  for (let i = 0; i < GAUSS_NODES.length; i++) {
    const u = GAUSS_NODES[i];
    const g = GAUSS_WEIGHTS[i] * Math.exp(-width * u * (n + (width * u) / 2));
    mass += g;
    first += u * g;
  }
  return [Math.log(width * mass) - (n * n) / 2 - Math.log(2 * Math.PI) / 2, first / mass];
}
