/** The clock of the panel: a share of the run between 0, the noise, and 1, the sample. */

const DURATION = 6000; // milliseconds from noise to sample
const PAUSE = 120; // a longer gap between frames is a hidden page, not time

export class Player {
  /**
   * @param {(share: number) => void} onFrame called once a frame while time runs
   * @param {(playing: boolean) => void} onChange called when it starts or stops
   */
  constructor(onFrame, onChange) {
    this.onFrame = onFrame;
    this.onChange = onChange;
    this.share = 1;
    this.playing = false;
    this.frames = 0;
    this.then = 0;
  }

  /** From where it stands; from the noise if it stands at the end. */
  play() {
    if (this.playing) return;
    if (this.share >= 1) this.share = 0;
    this.playing = true;
    this.then = performance.now();
    this.onChange(true);
    requestAnimationFrame((now) => this.tick(now));
  }

  pause() {
    if (!this.playing) return;
    this.playing = false;
    this.onChange(false);
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  tick(now) {
    if (!this.playing) return;
    this.share = Math.min(this.share + Math.min(Math.max(now - this.then, 0), PAUSE) / DURATION, 1);
    this.then = now;
    this.frames++;
    this.onFrame(this.share);
    if (this.share >= 1) this.pause();
    else requestAnimationFrame((next) => this.tick(next));
  }
}
