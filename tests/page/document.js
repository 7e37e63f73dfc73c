// A small document, of which all is known: a network F(x) = x, scaled to the denoiser of the standard normal law in two
// dimensions, beside the laws themselves; a variance-preserving path, alpha = cos(pi t/2), sigma = sin(pi t/2).

function smallDocument() {
  const writer = new BlobWriter();
  const network = { tile: TILE, columns: 2, dim: 2, parameters: 4, x: 0, c_noise: 1, out: 3, head: [] };
  network.registers = [[TILE, 2], [1, 1], [2, 2], [TILE, 2]];
  network.constants = [[2, writer.add([1, 0, 0, 1], [2, 2])]];
  network.body = [["linear", 3, [0, 2, -1], {}]];

  const mixture = (centres, variance) => {
    const size = centres.length / 2;
    return {
      kind: "mixture",
      dim: 2,
      centres: writer.add(centres, [size, 2], "f8"),
      log_weights: writer.add(new Array(size).fill(-Math.log(size)), [size], "f8"),
      variances: writer.add([variance], [1], "f8"),
    };
  };
  const laws = { normal: mixture([0, 0], 1), pair: mixture([-0.8, -0.8, 0.8, 0.8], 0.36) };
  laws.none = { kind: "none", reason: "unknown" };

  const count = 65;
  const times = Array.from({ length: count }, (_, l) => {
    const logsnr = -9 + (16 * l) / (count - 1);
    return (2 / Math.PI) * Math.atan(Math.exp(-logsnr / 2));
  });
  const at = (f) => writer.add(times.map(f), [count], "f8");
  const [alpha, sigma] = [(t) => Math.cos((Math.PI * t) / 2), (t) => Math.sin((Math.PI * t) / 2)];
  const path = () => ({
    t: at((t) => t),
    alpha: at(alpha),
    sigma: at(sigma),
    d_alpha: at((t) => -(Math.PI / 2) * sigma(t)),
    d_sigma: at((t) => (Math.PI / 2) * alpha(t)),
  });
  const starts = (step) => writer.add(Array.from({ length: count + 1 }, (_, l) => l * step), [count + 1], "i4");
  const repeated = (line) => times.flatMap(() => line);
  const networkLine = [0, 0, 0, 0, 2, 0, 1, 0, 1, 4, 0, 1, 0, 1];
  const lawLine = [0, 0, 0, 0, 3, 0, 1, 0, 1, 4, 0, 1, 0, 1];
  const u1 = (values) => writer.add(values, [values.length], "u1");
  const f8 = (values) => writer.add(values, [values.length], "f8");
  const level = (line, numbers) => ({
    ...path(),
    code: u1(repeated(line)),
    numbers: f8(times.flatMap(numbers)),
    slope: null,
    code_at: starts(line.length),
    numbers_at: starts(numbers(0).length),
  });
  const levels = {
    learned: level(networkLine, (t) => [1, 0, alpha(t)]),
    exact: level(lawLine, (t) => [1, alpha(t), sigma(t), 1]),
  };

  // x, then Euler's and an ancestral step for form's sake: x + 0.1 F(x) + 0.01 noise
  const plans = {};
  for (const steps of [1, 4, 100]) {
    const [code, numbers, states] = [[0, 0, 0, 0, 4, 0, 1, 0, 1], [1], [1, 0, 1]];
    for (let i = 0; i < steps; i++) {
      code.push(2, 0, 1, 0, 1, 1, 0, 0, 0, 4, 0, 3, 0, 3, 2, 1);
      numbers.push(1, 0.5, 1, 0.1 / steps, 0.01 / steps);
      states.push(1 - (i + 1) / steps, 1, 0.1);
    }
    plans[`toy${steps}`] = { sampler: "Toy", text: `Toy, ${steps} steps`, steps, nfe: steps, stochastic: true };
    const times = writer.add(states, [steps + 1, 3], "f4");
    const arrays = { slope: null, code: u1(code), numbers: f8(numbers), states: times };
    Object.assign(plans[`toy${steps}`], arrays);
  }

  const common = { dim: 2, seed: 0, row: 0, reason: "", prior: null, plans: Object.keys(plans), guidance: null };
  Object.assign(common, { exact: null, parameters: 4, training_steps: 0, samples: null });
  const lost = { kind: "recorded", reason: "its weights are gone", functions: [], law: "none" };
  const models = [
    { ...common, name: "normal", kind: "learned", functions: ["identity"], law: "normal", levels: "learned" },
    { ...common, name: "exact pair", kind: "exact", functions: ["pair"], law: "pair", levels: "exact", plans: [] },
    { ...common, name: "lost", levels: null, plans: [], ...lost },
  ];
  return [{ version: 1, networks: { identity: network }, laws, levels, plans, models }, writer.buffer];
}
