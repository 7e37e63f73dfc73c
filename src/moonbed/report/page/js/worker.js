// The engine behind messages, in a worker or beside a page: {id, op, args} is answered by {id, progress} any number of
// times and then by {id, result} or {id, error}; {id, cancel: true} ends an operation, which then answers {id, error:
// "cancelled"}. Operations take turns in slices of some milliseconds, between which messages arrive.

import { Engine } from "./engine.js";

const SLICE = 12; // milliseconds
const OPERATIONS = ["denoise", "exact", "logDensity", "drawLaw", "field", "density", "errorCurve", "quality", "path"];

/** Buffers of all typed arrays in a value, each once: they can be handed over instead of copied. */
function buffersIn(value, found = new Set()) {
  if (ArrayBuffer.isView(value)) found.add(value.buffer);
  else if (value && typeof value === "object") for (const part of Object.values(value)) buffersIn(part, found);
  return found;
}

/** Typed arrays of a value, copied where they are a part of their buffer: what is posted takes no more along. */
function ownBuffers(value) {
  if (ArrayBuffer.isView(value)) return value.byteLength === value.buffer.byteLength ? value : value.slice();
  if (Array.isArray(value)) return value.map(ownBuffers);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, ownBuffers(part)]));
  }
  return value;
}

/** Answers messages through `post(message, transfer)`. The first operation is `open` with {live, blob, wasm}. */
export class Server {
  constructor(post) {
    this.post = post;
    this.engine = null;
    this.cancelled = new Set();
    this.running = new Set();
    this.waiting = [];
    this.channel = new MessageChannel();
    this.channel.port1.onmessage = () => this.waiting.shift()();
  }

  send(message) {
    const own = ownBuffers(message);
    this.post(own, [...buffersIn(own)]);
  }

  /** Takes one message; resolves when it has been answered. */
  async receive({ id, op, args = {}, cancel = false }) {
    if (cancel) {
      if (this.running.has(id)) this.cancelled.add(id);
      return;
    }
    this.running.add(id);
    try {
      const result = await this.work(id, this.operation(op, args));
      this.send({ id, result });
    } catch (error) {
      this.send({ id, error: error instanceof Error ? error.message : String(error) });
    }
    this.running.delete(id);
    this.cancelled.delete(id);
  }

  /** Runs an operation to its end, in slices. */
  async work(id, operation) {
    let sliceEnd = performance.now() + SLICE;
    for (;;) {
      if (this.cancelled.has(id)) throw new Error("cancelled");
      const { done, value } = operation.next();
      if (done) return value;
      if (value !== undefined) this.send({ id, progress: value });
      if (performance.now() >= sliceEnd) {
        await this.turn();
        sliceEnd = performance.now() + SLICE;
      }
    }
  }

  /** Lets messages and other operations have their turn. */
  turn() {
    return new Promise((resolve) => {
      this.waiting.push(resolve);
      this.channel.port2.postMessage(null);
    });
  }

  /** The operation as a generator: yields progress, returns its result. */
  *operation(op, args) {
    if (op === "open") {
      this.engine = new Engine(args.live, args.blob, args.wasm);
      return { wasm: this.engine.kernel.simd };
    }
    if (!this.engine) throw new Error("no document has been opened");
    if (op === "sample") return yield* this.sample(args);
    if (!OPERATIONS.includes(op)) throw new Error(`no operation ${op}`);
    const answer = this.engine[op](args);
    return typeof answer.next === "function" ? yield* answer : answer;
  }

  /** Progress is each state; with `quiet` there is none. The result: {states, nfe, ms, x: the last state}. */
  *sample(args) {
    const begin = performance.now();
    let [states, x] = [0, null];
    for (const state of this.engine.sample(args)) {
      states += 1;
      x = state.x;
      yield args.quiet ? undefined : { ...state, x: x.slice() };
    }
    return { states, nfe: this.engine.live.plans[args.plan].nfe, ms: performance.now() - begin, x };
  }
}

/** Serves the messages of a worker's scope. */
export function serve(scope) {
  const server = new Server((message, transfer) => scope.postMessage(message, transfer));
  scope.onmessage = (event) => server.receive(event.data);
}

if (typeof WorkerGlobalScope !== "undefined" && self instanceof WorkerGlobalScope) serve(self);
