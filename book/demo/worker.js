// Runs the model apart from the page, so that the page stays smooth. Nothing here needs special server headers.
import { randn } from "./noise.js";
import { dpmSolver } from "./sampler.js";

const PIXELS = 28 * 28;
const CLOSE = 1e-2; // a prediction that is off by more comes from a device that computes something else
const PATIENCE = 10_000; // milliseconds for a device's first prediction
const RUNTIMES = { wasm: "./ort.wasm.bundle.min.mjs", webgpu: "./ort.jspi.bundle.min.mjs" };
let device = null; // where the model runs: as the page asks, unless that fails
let ready = null; // a promise of the runtime and the session
let newest = 0; // the number of the last request; what an older one is still doing ends

self.onmessage = async ({ data: request }) => {
  device ??= request.device;
  ready ??= load(device, request.model, request.verify && device === request.device); // once
  if (request.kind === "prepare") {
    prepare(request, ready);
    return;
  }
  newest = request.id;
  const [triedOn, tried] = [device, ready];
  try {
    await draw(request, await tried);
  } catch (error) {
    if (ready === tried) [ready, device] = [null, "wasm"]; // the next request tries again
    if (request.id !== newest) return;
    if (triedOn === "webgpu") self.onmessage({ data: request });
    else self.postMessage({ kind: "error", id: request.id, message: error.message });
  }
};

/** Loads the model before it is asked for anything. The first prediction takes longer than others, so it is made here. */
async function prepare({ model }, loading) {
  try {
    const predict = await loading;
    if (newest === 0) await predict(new Float32Array(model.pictures * PIXELS), 0, 0, 0);
    if (newest === 0) self.postMessage({ kind: "ready" });
  } catch {
    // What went wrong is told, or put right, when the model is asked: `loading` stays as it is until then.
  }
}

/** The runtime with the model in it. With `verify` it is used only if it then predicts what PyTorch did. */
async function load(where, model, verify) {
  const files = await loaded(Object.entries(model.bytes[where]));
  const ort = await import(RUNTIMES[where]);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = Object.entries(files).find(([name]) => name.endsWith(".wasm"))[1];
  const session = await ort.InferenceSession.create(files["model.onnx"], { executionProviders: [where] });
  const predict = predictor(ort, session, model.pictures);
  if (verify) await Promise.race([compare(predict, model), tooLate()]);
  return predict;
}

/** (x, t, label, weight) => a promise of the guided eps of n pictures; x and eps are Float32Arrays. */
function predictor(ort, session, n) {
  let before = Promise.resolve(); // one prediction at a time: an older request's may still be under way
  const predict = async (x, t, label, weight) => {
    const { eps } = await session.run({
      x_t: new ort.Tensor("float32", x, [n, 1, 28, 28]),
      t: new ort.Tensor("int64", new BigInt64Array(n).fill(BigInt(t)), [n]),
      y: new ort.Tensor("int64", new BigInt64Array(n).fill(BigInt(label)), [n]),
      guidance_weight: new ort.Tensor("float32", new Float32Array(n).fill(weight), [n]),
    });
    return eps.data;
  };
  return (...given) => (before = before.catch(() => {}).then(() => predict(...given)));
}

async function compare(predict, { pictures, known }) {
  const eps = await predict(randn(known.seed, pictures * PIXELS), known.t, known.label, known.weight);
  const gap = Math.max(...known.eps.map((value, i) => Math.abs(value - eps[i * known.stride])));
  if (!(gap < CLOSE)) throw new Error(`its predictions are off by ${gap.toFixed(2)}`);
}

function tooLate() {
  return new Promise((_, reject) => setTimeout(() => reject(new Error("it takes too long")), PATIENCE));
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

async function draw({ id, model, label, weight, seed, steps }, predict) {
  if (id !== newest) return;
  const guided = (x, t) => predict(x, t, label, weight);
  const start = performance.now();
  const noise = randn(seed, model.pictures * PIXELS);
  self.postMessage({ kind: "step", id, device, index: 0, steps, x: noise, x0: noise, seconds: 0 });
  for await (const { index, x, x0 } of dpmSolver(guided, noise, model.alpha_bars, steps)) {
    self.postMessage({ kind: "step", id, device, index, steps, x, x0, seconds: (performance.now() - start) / 1000 });
    await new Promise((resume) => setTimeout(resume)); // lets a newer request in
    if (id !== newest) return;
  }
}
