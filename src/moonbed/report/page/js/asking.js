/**
 * Questions of which only the latest matters, with their answers kept.
 *
 * While one is open, a newer one waits (and replaces an older one that waits), so that a reader who scrubs through
 * sixty levels asks for those that can be answered; a slow kind is cancelled instead.
 */

const KEPT = 160;

export class Asking {
  /**
   * @param {(args: object, onProgress: (p: object) => void) => Promise & {cancel: () => void}} call
   * @param {{changed: () => void, cancels?: boolean, answers?: Map}} options
   */
  constructor(call, { changed, cancels = false, answers = new Map() }) {
    this.call = call;
    this.changed = changed;
    this.cancels = cancels;
    this.answers = answers;
    this.open = null;
    this.next = null;
    this.latest = undefined;
    this.share = null;
    this.error = "";
  }

  /** The answer, if it is known; else undefined, and it will be asked for: changed() tells when it is there. */
  get(key, args) {
    if (this.answers.has(key)) {
      this.next = null;
      this.latest = this.answers.get(key);
      return this.latest;
    }
    if (this.open && this.open.key === key) this.next = null;
    else if (!this.open) this.ask(key, args);
    else if (this.cancels) {
      this.stop();
      this.ask(key, args);
    } else this.next = { key, args };
    return undefined;
  }

  /** Ask nothing further. */
  stop() {
    if (this.open && this.cancels) {
      this.open.job.cancel();
      this.open = null;
      this.share = null;
    }
    this.next = null;
  }

  ask(key, args) {
    this.error = "";
    this.share = 0;
    const job = this.call(args, (progress) => {
      if (Number.isFinite(progress.fraction)) this.share = progress.fraction;
      this.changed();
    });
    this.open = { key, job };
    job.then(
      (answer) => this.close(key, answer),
      (error) => this.close(key, null, error.message),
    );
  }

  close(key, answer, error = "") {
    this.open = null;
    this.share = null;
    this.error = error;
    if (this.answers.size >= KEPT) this.answers.delete(this.answers.keys().next().value);
    this.answers.set(key, answer);
    const { next } = this;
    this.next = null;
    if (next && !this.answers.has(next.key)) this.ask(next.key, next.args);
    this.changed();
  }
}
