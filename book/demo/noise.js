// PyTorch's random numbers, so that a seed gives the pictures here that it gives in a notebook:
// randn(seed, n) is torch.randn(n, generator=torch.Generator().manual_seed(seed)) on a CPU, for n a multiple of 16.

const SIZE = 624;

/** The Mersenne Twister (Matsumoto & Nishimura 1998): an endless stream of 32-bit numbers. */
function* twister(seed) {
  const state = new Uint32Array(SIZE);
  state[0] = seed;
  for (let i = 1; i < SIZE; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  for (;;) {
    for (let i = 0; i < SIZE; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % SIZE] & 0x7fffffff);
      state[i] = state[(i + 397) % SIZE] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    for (let i = 0; i < SIZE; i++) {
      let y = state[i];
      y ^= y >>> 11;
      y ^= (y << 7) & 0x9d2c5680;
      y ^= (y << 15) & 0xefc60000;
      yield (y ^ (y >>> 18)) >>> 0;
    }
  }
}

/** n standard normal numbers (Box-Muller, over blocks of 16 as PyTorch lays them out). */
export function randn(seed, n) {
  const stream = twister(seed);
  const values = Float32Array.from({ length: n }, () => (stream.next().value & 0xffffff) / 0x1000000);
  for (let block = 0; block < n; block += 16) {
    for (let i = block; i < block + 8; i++) {
      const radius = Math.sqrt(-2 * Math.log(1 - values[i]));
      const angle = 2 * Math.PI * values[i + 8];
      values[i] = radius * Math.cos(angle);
      values[i + 8] = radius * Math.sin(angle);
    }
  }
  return values;
}
