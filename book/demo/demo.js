// The page's controls, and what the worker sends, on the canvas.
const SIDE = 28;
const COLUMNS = 4;
const FIRST_CLASS = 9;
const DEVICES = { wasm: "one thread", webgpu: "WebGPU" };

const element = (id) => document.getElementById(id);
const form = element("controls");
const canvas = element("pictures");
const pen = canvas.getContext("2d");
let worker = null; // loaded when somebody reaches for the controls, not with the page
let id = 0; // of the last request; 0: nothing was asked for yet
let step = null; // the last one received

// The small part comes with the page: which model, which classes, which schedule.
const model = await (await fetch("model.json")).json();
const asked = new URLSearchParams(location.search).get("device"); // `?device=wasm`, say, to compare
const device = asked in DEVICES ? asked : await chooseDevice();
const megabytes = Object.values(model.bytes[device]).reduce((sum, bytes) => sum + bytes) / 1e6;
element("size").textContent = `${megabytes.toFixed(0)} MB, fewer where the server compresses`;
form.label.append(...model.classes.map((name, value) => new Option(name, value, false, value === FIRST_CLASS)));

form.addEventListener("submit", (event) => {
  event.preventDefault();
  request();
});
form.addEventListener("input", (event) => {
  show();
  if (event.target.name === "view") paint();
  else if (id) request();
});
for (const reach of ["pointerenter", "touchstart", "focusin"]) form.addEventListener(reach, prepare, { passive: true });
show();

/** Where the model shall run if the address does not say it: "webgpu" or "wasm". */
async function chooseDevice() {
  // The runtime for WebGPU waits for it inside WebAssembly (JSPI). An emulated processor would be slower than none.
  const adapter = "Suspending" in WebAssembly && (await navigator.gpu?.requestAdapter().catch(() => null));
  return adapter && !adapter.info?.isFallbackAdapter ? "webgpu" : "wasm";
}

/** The values that the controls hold. */
function values() {
  const seed = Math.min(Math.max(Math.trunc(form.seed.valueAsNumber || 0), 0), 2 ** 32 - 1);
  return { label: +form.label.value, weight: +form.weight.value, seed, steps: +form.steps.value };
}

/** Has the model loaded by the time that it is asked for: once. */
function prepare() {
  if (worker) return;
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data }) => receive(data);
  worker.onerror = () => say("This browser cannot run the model: it needs WebAssembly and module workers.");
  element("progress").hidden = false;
  say("Loading the model …");
  ask({ kind: "prepare" });
}

function request() {
  prepare();
  ask({ kind: "draw", id: ++id, ...values() });
}

function ask(what) {
  worker.postMessage({ model, device, verify: device !== "wasm" || asked === device, ...what });
}

function receive(message) {
  if (message.kind === "loading") {
    element("progress").value = message.share;
    return;
  }
  if (message.kind === "ready") {
    element("progress").hidden = true;
    say("The model is loaded.");
    return;
  }
  if (message.id !== id) return; // of settings that have changed since
  element("progress").hidden = true;
  if (message.kind === "error") {
    say(`The model does not run: ${message.message}. Press Draw to try again.`);
    return;
  }
  step = message;
  paint();
  const { index, steps, seconds } = step;
  const done = `${steps} steps, ${seconds.toFixed(1)} s, ${DEVICES[step.device]}`;
  element("status").textContent = index < steps ? `step ${index} of ${steps}` : done;
  document.dispatchEvent(new CustomEvent("step", { detail: step })); // for whoever listens: the tests do
  if (index === steps) say(`${model.pictures} pictures: ${model.classes[values().label]}, guidance weight ${values().weight}.`);
}

/** Draws the last step: what the network works on, or the pictures that it takes this to be. */
function paint() {
  if (!step) return;
  const pixels = form.view.value === "x0" ? step.x0 : step.x;
  const image = pen.createImageData(canvas.width, canvas.height);
  pixels.forEach((value, k) => {
    const [picture, inside] = [Math.floor(k / SIDE ** 2), k % SIDE ** 2];
    const row = Math.floor(picture / COLUMNS) * (SIDE + 1) + Math.floor(inside / SIDE);
    const column = (picture % COLUMNS) * (SIDE + 1) + (inside % SIDE);
    const grey = Math.round((Math.min(1, Math.max(-1, value)) + 1) * 127.5);
    image.data.set([grey, grey, grey, 255], 4 * (row * canvas.width + column));
  });
  pen.putImageData(image, 0, 0);
  const name = model.classes[values().label];
  canvas.setAttribute("aria-label", `${model.pictures} pictures of the class ${name} after step ${step.index} of ${step.steps}`);
}

/** The numbers beside the sliders, and the same request in Python. */
function show() {
  const { label, weight, seed, steps } = values();
  element("weight-value").textContent = weight.toFixed(1);
  element("steps-value").textContent = steps;
  element("python").textContent = `import torch
from ddpm_lib import pretrained, samplers

model, schedule = pretrained.load("${model.model}", ${model.epoch}), pretrained.schedule("${model.model}")
pictures = samplers.sample(
    model, schedule, y=torch.full((${model.pictures},), ${label}), guidance_weight=${weight.toFixed(1)},
    sampler="dpm_solver", steps=${steps}, clip_x_0=True,
    generator=torch.Generator().manual_seed(${seed}),
)`;
}

function say(line) {
  element("news").textContent = line;
}
