// Plans by hand: an Euler sampler with noise, over a "network" and a "law" that are simple functions.

const plan = (code, numbers, slope = null) => {
  return new Plan(Uint16Array.from(code), Float64Array.from(numbers), slope && Float64Array.from(slope));
};

function worldOf(n, dim) {
  const asked = [];
  const network = {
    run(x, count, columns, cNoise, out) {
      asked.push([...columns, cNoise]);
      return x.forEach((v, i) => (out[i] = v * v + cNoise + (columns[0] ?? 0))) ?? out;
    },
  };
  const law = {
    denoise(x, count, alpha, sigma, out) {
      return x.forEach((v, i) => (out[i] = (alpha * v) / (1 + sigma))) ?? out;
    },
  };
  const draw = (name) => new Random(9, name).normal(n * dim);
  return { functions: [network, law], n, dim, start: () => draw("start"), noise: (k) => draw(k), asked };
}

test("a plan of all kinds of lines", () => {
  const world = worldOf(3, 2);
  // v0 start; v1 state = 2 v0; v2 = F(0.5 v0; 0.1, c_noise 0.7); v3 noise; v4 = E(v0 - v2; alpha 0.8, sigma 0.6);
  // v5 state = v0 + v2 - 3 v3 + 0.25 v4
  const code = [0, 0, 0, 0, 4, 0, 1, 0, 1, 2, 0, 1, 1, 2, 1, 0, 0, 0, 3, 1, 2, 0, 4, 2, 4, 0, 4, 0, 5, 3, 2, 1];
  const numbers = [2, 0.5, 0.1, 0.7, 1, -1, 0.8, 0.6, 1, 1, -3, 0.25];
  const states = [...plan(code, numbers).run(world, 2)];
  assertEqual(states.length, 2);
  const [start, noise] = [world.start(), world.noise(0)];
  assertClose(states[0].x, start.map((v) => 2 * v), 1e-15);
  const f = start.map((v) => (0.5 * v) ** 2 + 0.8);
  const e = start.map((v, i) => (0.8 * (v - f[i])) / 1.6);
  assertClose(states[1].x, start.map((v, i) => v + f[i] - 3 * noise[i] + 0.25 * e[i]), 1e-14);
  assertEqual(world.asked, [[0.1, 0.7]]);
});

test("a sum is no state", () => {
  const states = [...plan([0, 0, 0, 0, 5, 0, 1, 0, 1, 4, 0, 2, 0, 2, 1], [3, 1, 2]).run(worldOf(2, 1), 2)];
  assertEqual(states.length, 1);
  assertClose(states[0].x, worldOf(2, 1).start().map((v) => 7 * v), 1e-15);
});

test("guidance is linear in its scale", () => {
  const code = [0, 0, 0, 0, 4, 0, 1, 0, 1];
  const scaled = plan(code, [2], [0.5]);
  const first = (w) => scaled.run(worldOf(2, 1), w).next().value.x;
  const start = worldOf(2, 1).start();
  assertClose(first(2), start.map((v) => 2 * v), 1e-15);
  assertClose(first(4), start.map((v) => 3 * v), 1e-15);
  assertClose(first(0), start.map((v) => v), 1e-15);
});

test("a state that is used later says so, and an empty combination is zero", () => {
  const code = [0, 0, 0, 0, 4, 0, 1, 0, 1, 4, 0, 1, 0, 1, 4, 0, 0, 0];
  const [first, second, last] = [...plan(code, [3, 2]).run(worldOf(2, 1), 2)];
  assert(first.kept && !second.kept && !last.kept);
  assertClose(second.x, worldOf(2, 1).start().map((v) => 6 * v), 1e-15);
  assertEqual(last.x, [0, 0]);
});

test("a thousand steps keep a few vectors only", () => {
  const [code, numbers] = [[0, 0, 0, 0, 4, 0, 1, 0, 1], [1]];
  for (let step = 0; step < 1000; step++) {
    code.push(2, 0, 1, 0, 1, 1, 0, 0, 0, 4, 0, 3, 0, 3, 2, 1); // F(x), noise, x + F + noise
    numbers.push(0.5, 0.01, 1, -0.001, 0.01);
  }
  const long = plan(code, numbers);
  const world = worldOf(2000, 2);
  const made = [];
  const run = world.functions[0].run;
  world.functions[0].run = (x, n, columns, c, out) => {
    if (!made.includes(out)) made.push(out);
    return run(x, n, columns, c, out);
  };
  let count = 0;
  for (const { x } of long.run(world, 2)) count += x.length > 0;
  assertEqual(count, 1001);
  assertEqual(made.length, 1);
});

test("numbers that are too few are an error", () => {
  assertThrows(() => plan([0, 0, 0, 0, 4, 0, 1, 0, 1], []), "0 numbers and uses 1");
});
