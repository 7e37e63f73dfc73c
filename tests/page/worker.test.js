// The engine in a real worker, from the bundle's text.

class Caller {
  constructor() {
    const url = URL.createObjectURL(new Blob([given.source], { type: "text/javascript" }));
    this.worker = new Worker(url);
    this.calls = new Map();
    this.count = 0;
    this.worker.onmessage = ({ data }) => {
      const call = this.calls.get(data.id);
      if (data.progress) call.progress(data.progress, data.id);
      else if (data.error !== undefined) call.reject(new Error(data.error));
      else call.resolve(data.result);
    };
  }

  call(op, args, progress = () => {}) {
    const id = this.count++;
    return new Promise((resolve, reject) => {
      this.calls.set(id, { resolve, reject, progress });
      this.worker.postMessage({ id, op, args });
    });
  }

  cancel(id) {
    this.worker.postMessage({ id, cancel: true });
  }
}

async function opened(wasm = given.wasm) {
  const caller = new Caller();
  const [live, blob] = smallDocument();
  const { wasm: simd } = await caller.call("open", { live, blob, wasm });
  assertEqual(simd, wasm !== null);
  return caller;
}

async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error.message;
  }
  throw new Error("expected a failure");
}

const LARGE = { model: 1, level: 64, grid: { x0: -2, x1: 2, y0: -2, y1: 2, nx: 300, ny: 300 } };

test("states arrive one by one, as on the page itself", async () => {
  for (const wasm of [given.wasm, null]) {
    const caller = await opened(wasm);
    const states = [];
    const question = { model: 0, plan: "toy4", n: 100, seed: 2 };
    const result = await caller.call("sample", question, (state) => states.push(state));
    const own = [...new Engine(...smallDocument(), wasm).sample(question)];
    assertEqual(states, own);
    assertEqual(result.x, own.at(-1).x);
    assertEqual([result.states, result.nfe], [5, 4]);
    const quiet = [];
    await caller.call("sample", { model: 0, plan: "toy4", n: 10, quiet: true }, (state) => quiet.push(state));
    assertEqual(quiet, []);
  }
});

test("all operations answer", async () => {
  const caller = await opened();
  const points = Float64Array.of(1, 2, 3, 4);
  const grid = { x0: -1, x1: 1, y0: -1, y1: 1, nx: 4, ny: 3 };
  assertEqual((await caller.call("denoise", { model: 0, level: 0, points })).length, 4);
  assertEqual((await caller.call("exact", { law: "pair", alpha: 1, sigma: 1, points })).length, 4);
  assertEqual((await caller.call("logDensity", { law: "pair", alpha: 1, sigma: 1, points })).length, 2);
  assertEqual((await caller.call("drawLaw", { law: "pair", n: 5 })).length, 10);
  assertEqual((await caller.call("field", { model: 0, level: 3, grid })).learned.length, 24);
  assertEqual((await caller.call("density", { model: 0, level: 3, grid })).learned.length, 12);
  assertEqual((await caller.call("errorCurve", { model: 0, n: 10 })).mean.length, 65);
  assertEqual((await caller.call("quality", { model: 0, sampler: "Toy", n: 20 })).points.length, 3);
  assertEqual((await caller.call("path", { model: 0, plan: "toy4", x: [1, 2], seed: 1 })).length, 5);
});

test("a long operation is cancelled, and lets others through meanwhile", async () => {
  const caller = await opened();
  let seen = 0;
  let short = null;
  const long = caller.call("density", LARGE, ({ fraction }, id) => {
    seen = fraction;
    short ??= caller.call("drawLaw", { law: "pair", n: 5 }).then((x) => (caller.cancel(id), x.length));
  });
  assertEqual(await failure(long), "cancelled");
  assertEqual(await short, 10);
  assert(seen > 0 && seen < 0.9, `at ${seen}`);
  assertEqual((await caller.call("drawLaw", { law: "pair", n: 5 })).length, 10);
});

test("errors come back in words", async () => {
  const caller = new Caller();
  assertEqual(await failure(caller.call("sample", {})), "no document has been opened");
  const ready = await opened();
  assertEqual(await failure(ready.call("sing", {})), "no operation sing");
  assertEqual(await failure(ready.call("field", { model: 2 })), "lost is not live: its weights are gone");
  assertEqual(await failure(ready.call("constructor", {})), "no operation constructor");
});

test("the same server works beside the page", async () => {
  const messages = [];
  const server = new Server((message) => messages.push(message));
  const [live, blob] = smallDocument();
  await server.receive({ id: 0, op: "open", args: { live, blob, wasm: given.wasm } });
  await Promise.all([
    server.receive({ id: 1, op: "density", args: LARGE }),
    server.receive({ id: 2, op: "drawLaw", args: { law: "pair", n: 5 } }),
    server.receive({ id: 1, cancel: true }),
  ]);
  assertEqual(messages.filter(({ error }) => error), [{ id: 1, error: "cancelled" }]);
  assertEqual(messages.find(({ id, result }) => id === 2 && result).result.length, 10);
});
