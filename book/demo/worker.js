// Runs the model apart from the page, so that the page stays smooth. One thread: that needs no special server headers.
import * as ort from "./ort.wasm.bundle.min.mjs";
import { randn } from "./noise.js";
import { dpmSolver } from "./sampler.js";

const PIXELS = 28 * 28;
let ready = null; // a promise of the session
let newest = 0; // the number of the last request; what an older one is still doing ends

self.onmessage = async ({ data: request }) => {
  newest = request.id;
  try {
    ready ??= load(request.model.bytes); // once
    await draw(request, await ready);
  } catch (error) {
    ready = null; // the next request tries again
    self.postMessage({ kind: "error", id: request.id, message: error.message });
  }
};

/** `bytes`: the sizes of the two files to load, by name, after unpacking. */
async function load(bytes) {
  const files = await loaded(Object.entries(bytes));
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = files["ort-wasm-simd-threaded.wasm"];
  return ort.InferenceSession.create(files["model.onnx"]);
}

/** Loads the files side by side, and tells how far it has come. */
async function loaded(sizes) {
  const total = sizes.reduce((sum, [, size]) => sum + size, 0);
  let come = 0;
  const files = await Promise.all(
    sizes.map(async ([name, size]) => {
      const response = await fetch(new URL(name, import.meta.url));
      if (!response.ok) throw new Error(`${name} cannot be loaded (${response.status})`);
      const content = new Uint8Array(size);
      let filled = 0;
      const reader = response.body.getReader();
      for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
        content.set(piece.value, filled);
        filled += piece.value.length;
        come += piece.value.length;
        self.postMessage({ kind: "loading", share: come / total });
      }
      return [name, content];
    }),
  );
  return Object.fromEntries(files);
}

async function draw({ id, model, label, weight, seed, steps }, session) {
  if (id !== newest) return;
  const n = model.pictures;
  const shape = [n, 1, 28, 28];
  const y = new ort.Tensor("int64", new BigInt64Array(n).fill(BigInt(label)), [n]);
  const guidance = new ort.Tensor("float32", new Float32Array(n).fill(weight), [n]);
  const predict = async (x, t) => {
    const time = new ort.Tensor("int64", new BigInt64Array(n).fill(BigInt(t)), [n]);
    const { eps } = await session.run({ x_t: new ort.Tensor("float32", x, shape), t: time, y, guidance_weight: guidance });
    return eps.data;
  };
  const start = performance.now();
  const noise = randn(seed, n * PIXELS);
  self.postMessage({ kind: "step", id, index: 0, steps, x: noise, x0: noise, seconds: 0 });
  for await (const { index, x, x0 } of dpmSolver(predict, noise, model.alpha_bars, steps)) {
    self.postMessage({ kind: "step", id, index, steps, x, x0, seconds: (performance.now() - start) / 1000 });
    await new Promise((resume) => setTimeout(resume)); // lets a newer request in
    if (id !== newest) return;
  }
}
