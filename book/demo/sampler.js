// DPM-Solver++(2M) as in ddpm_lib/samplers.py, with quadratic spacing and x_0 cut to [-1, 1]; a test compares the two.

/** Python's round: a half goes to the even neighbour. */
function round(x) {
  const up = Math.round(x);
  return up - x === 0.5 && up % 2 ? up - 1 : up;
}

/** Which timesteps are visited, falling from T - 1 (spaced_timesteps, "quadratic"). */
export function visits(T, steps) {
  return Array.from({ length: steps }, (_, i) =>
    Math.max(round(T * ((steps - i) / steps) ** 2) - 1, steps - 1 - i),
  );
}

/**
 * From noise to pictures: yields after each step what it saw and did.
 * @param predict (x, t) => a promise of the guided eps; x and eps are Float32Arrays
 * @param noise what to start from
 * @param alphaBars the schedule
 * @param steps how often to ask the network
 */
export async function* dpmSolver(predict, noise, alphaBars, steps) {
  const times = visits(alphaBars.length, steps);
  const halfLogSnr = (t) => Math.log(alphaBars[t] / (1 - alphaBars[t])) / 2;
  let x = noise;
  let before = null; // the last step's x_0, and its length in the log-SNR
  let hBefore = 0;
  for (const [i, t] of times.entries()) {
    const eps = await predict(x, t);
    const [signal, sigma] = [Math.sqrt(alphaBars[t]), Math.sqrt(1 - alphaBars[t])];
    const x0 = x.map((value, k) => Math.min(1, Math.max(-1, (value - sigma * eps[k]) / signal)));
    if (i === steps - 1) {
      x = x0;
    } else {
      const next = times[i + 1];
      const h = halfLogSnr(next) - halfLogSnr(t);
      const slope = before === null ? 0 : h / (2 * hBefore);
      const target = before === null ? x0 : x0.map((value, k) => (1 + slope) * value - slope * before[k]);
      const keep = Math.sqrt(1 - alphaBars[next]) / sigma;
      const move = -Math.sqrt(alphaBars[next]) * Math.expm1(-h);
      x = x.map((value, k) => keep * value + move * target[k]);
      [before, hBefore] = [x0, h];
    }
    yield { index: i + 1, steps, t, x0, x };
  }
}
