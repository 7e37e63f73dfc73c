/** Starts the panel, if the page holds live models: the arrays are read after the first paint. */

import { bytesOfBase64 } from "./codec.js";
import { Client } from "./client.js";
import { Live } from "./live.js";

/** The live models of the page as window.moonbed: {ready, call, state, set, live}; null without any. */
export function startLive() {
  const [root, text] = [document.getElementById("live"), document.getElementById("moonbed-live")];
  if (!root || !text) return null;
  const live = JSON.parse(text.textContent);
  if (!live.models.length) return null;
  let [client, panel] = [null, null];
  const ready = afterPaint().then(() => {
    const bytes = (id) => bytesOfBase64(document.getElementById(id)?.textContent || "");
    const blob = bytes("moonbed-blob").buffer;
    const kernel = bytes("moonbed-kernel");
    const engine = document.getElementById("moonbed-engine").textContent;
    client = new Client(engine, live, blob, kernel.length ? kernel : null);
    panel = new Live(root, live, blob, client);
    panel.start();
  });
  return {
    live,
    ready,
    call: (op, args, onProgress) => ready.then(() => client.call(op, args, onProgress)),
    state: () => ({ ...panel.state }),
    set: (given) => ({ ...panel.set(given) }),
    panel: () => panel,
  };
}

function afterPaint() {
  return new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
}

window.moonbed = startLive();
