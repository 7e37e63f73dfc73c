/**
 * The engine in a Worker, asked by messages {id, op, args}; on the page's own thread where there are no Workers.
 *
 * Two engines at most: "picture" for what the reader waits for, "measure" for what takes seconds, so that neither
 * waits for the other.
 */

export class Client {
  /**
   * @param {string} source the engine's script
   * @param {object} live the live document
   * @param {ArrayBuffer} blob its arrays
   * @param {Uint8Array|null} wasm the kernel, or null for plain JavaScript
   */
  constructor(source, live, blob, wasm) {
    this.parts = { live, blob, wasm };
    this.source = source;
    this.lanes = new Map();
    this.pending = new Map();
    this.last = 0;
  }

  /**
   * Ask for `op`. The promise has a method cancel(), after which it is never settled.
   *
   * @param {string} op a method of the engine
   * @param {object} args
   * @param {(progress: object) => void} [onProgress]
   * @param {"picture"|"measure"} [lane]
   */
  call(op, args, onProgress = () => {}, lane = "picture") {
    const scope = this.lane(lane);
    const id = ++this.last;
    const promise = new Promise((resolve, reject) => this.pending.set(id, { resolve, reject, onProgress }));
    scope.postMessage({ id, op, args });
    promise.cancel = () => {
      if (this.pending.delete(id)) scope.postMessage({ id, cancel: true });
    };
    return promise;
  }

  lane(name) {
    if (!this.lanes.has(name)) {
      const scope = openScope(this.source);
      scope.onmessage = (event) => this.receive(event.data);
      scope.onerror = (event) => this.fail(event.message || "the engine could not start");
      scope.postMessage({ id: 0, op: "open", args: this.parts });
      this.lanes.set(name, scope);
    }
    return this.lanes.get(name);
  }

  receive({ id, progress, result, error }) {
    if (id === 0 && error !== undefined) this.fail(error);
    const asked = this.pending.get(id);
    if (!asked) return;
    if (progress !== undefined) {
      asked.onProgress(progress);
      return;
    }
    this.pending.delete(id);
    if (error === undefined) asked.resolve(result);
    else asked.reject(new Error(typeof error === "string" ? error : error.message));
  }

  fail(message) {
    for (const { reject } of this.pending.values()) reject(new Error(message));
    this.pending.clear();
  }
}

function openScope(source) {
  try {
    return new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  } catch {
    return localScope(source);
  }
}

/** A stand-in for a Worker: the engine's script inside a function, its Server on this thread. */
function localScope(source) {
  const script = document.createElement("script");
  script.textContent = `window.moonbedServer = function () {\n${source}\nreturn Server;\n};`;
  document.head.append(script);
  const Server = window.moonbedServer();
  const scope = { onmessage: null, onerror: null };
  const server = new Server((data) => setTimeout(() => scope.onmessage({ data })));
  scope.postMessage = (data) => setTimeout(() => server.receive(data));
  return scope;
}
