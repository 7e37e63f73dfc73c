// Named, independent streams of random numbers under one seed: xoshiro128** (Blackman & Vigna, Scrambled Linear
// Pseudorandom Number Generators, 2021), its state a hash of the seed and the name. Normal numbers by Box and Muller's
// transform. The same seed and name give the same numbers in every browser; they are not those of Python.

/** Four words that depend on every character of a text, by rounds of multiplication and rotation. */
function hashWords(text) {
  const words = new Uint32Array([0x9e3779b9, 0x243f6a88, 0xb7e15162, 0x71374491]);
  const mix = (value) => {
    for (let i = 0; i < 4; i++) {
      let h = Math.imul(words[i] ^ value, 0x85ebca6b + 2 * i);
      h ^= h >>> 15;
      words[i] = Math.imul(h, 0xc2b2ae35) ^ words[(i + 1) & 3];
      value = (words[i] >>> 7) | (words[i] << 25);
    }
  };
  for (let i = 0; i < text.length; i++) mix(text.charCodeAt(i) + 1);
  for (let i = 0; i < 4; i++) mix(text.length + i);
  return words;
}

/** One sequence of random numbers; each draw goes on where the last one ended. */
export class Random {
  constructor(seed, ...name) {
    [this.a, this.b, this.c, this.d] = hashWords([seed, ...name].join("\x1f"));
    if (!(this.a | this.b | this.c | this.d)) this.a = 1;
  }

  /** 32 random bits as a number in [0, 2^32). */
  bits() {
    let r = Math.imul(this.b, 5);
    r = Math.imul((r << 7) | (r >>> 25), 9);
    const shifted = this.b << 9;
    this.c ^= this.a;
    this.d ^= this.b;
    this.b ^= this.c;
    this.a ^= this.d;
    this.c ^= shifted;
    this.d = (this.d << 11) | (this.d >>> 21);
    return r >>> 0;
  }

  /** A number in [0, 1), a multiple of 2^-53. */
  uniform() {
    return ((this.bits() >>> 5) * 67108864 + (this.bits() >>> 6)) / 9007199254740992;
  }

  /** `count` independent standard normal numbers. */
  normal(count) {
    const out = new Float64Array(count);
    for (let i = 0; i < count; i += 2) {
      const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
      const angle = 2 * Math.PI * this.uniform();
      out[i] = radius * Math.cos(angle);
      if (i + 1 < count) out[i + 1] = radius * Math.sin(angle);
    }
    return out;
  }

  /** The numbers 0..n-1 in random order. */
  permutation(n) {
    const out = Int32Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = Math.floor(this.uniform() * (i + 1));
      [out[i], out[j]] = [out[j], out[i]];
    }
    return out;
  }
}
