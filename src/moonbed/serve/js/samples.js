/** Samples of the last checkpoint, drawn here: the server sends the model, a worker runs it. */

/** Two canvases, the model's samples beside the exact target's. */
export class Samples {
  constructor(address) {
    this.address = address;
  }

  follow(run) {}
}
