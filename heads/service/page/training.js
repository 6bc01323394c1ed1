// Training a head: the form, the job that runs in the service, and the change to the new version.

import { make, one } from "./dom.js";
import { corrections } from "./labels.js";
import { count, decimal, percent, text } from "./messages.js";
import { json, Problem } from "./service.js";

const POLL = 300; // milliseconds
const form = one("#training-form");
const name = one("#train-name");
let service = null;
let options = null;
let job = null;
let finished = () => {};

export function startTraining(onTrained) {
  finished = onTrained;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    train();
  });
  name.addEventListener("input", hints);
  name.addEventListener("invalid", () => {
    one("#train-name-hint").textContent = text("headPattern");
  });
  one("#train-family").addEventListener("change", hints);
  one("#job-cancel").addEventListener("click", () => json(`jobs/${job.job}`, { method: "DELETE" }).catch(show));
}

// Fill the form from what the service has.
export async function offerTraining(found) {
  if (found.cache) options ??= await json("training");
  service = found;
  one("#training").hidden = !found.cache;
  if (!found.cache) return;
  const first = service.heads[0];
  fill("#train-family", options.families.map((family) => family.name), first?.family ?? options.family);
  fill("#train-tap", Object.keys(options.taps), first?.tap ?? options.tap);
  one("#train-names").replaceChildren(...service.heads.map((head) => make("option", { value: head.name })));
  if (!name.value) name.value = first?.name ?? options.family;
  drawTraining();
}

function fill(selector, names, chosen) {
  const select = one(selector);
  const before = select.value;
  select.replaceChildren(...names.map((each) => make("option", { value: each, text: each })));
  select.value = names.includes(before) ? before : chosen;
}

export function drawTraining() {
  if (!service?.cache) return;
  one("#training-lead").textContent = text("trainingLead", { corrections: count(corrections()), labelled: count(service.cache.labelled) });
  hints();
  if (job) show(job);
}

function hints() {
  const exists = service.heads.some((head) => head.name === name.value);
  one("#train-name-hint").textContent = text(exists ? "headExchanged" : "headNew");
  const family = options.families.find((each) => each.name === one("#train-family").value);
  one("#train-family-hint").textContent = family?.summary ?? "";
}

async function train() {
  one("#train").disabled = true;
  try {
    job = await json(`heads/${encodeURIComponent(name.value)}/train`, {
      method: "POST",
      json: { family: one("#train-family").value, tap: one("#train-tap").value, corrections: true },
    });
    while (job.state === "waiting" || job.state === "running") {
      show(job);
      await new Promise((resolve) => setTimeout(resolve, POLL));
      job = await json(`jobs/${job.job}`);
    }
    show(job);
    if (job.state === "done") await finished();
  } catch (problem) {
    show(problem);
  }
  one("#train").disabled = false;
}

// Show the state of a job, or a problem with it.
function show(state) {
  const active = state.state === "waiting" || state.state === "running";
  const bar = one("#job-bar");
  one("#job").hidden = false;
  bar.hidden = !active;
  if (state.epochs && state.epoch) [bar.max, bar.value] = [state.epochs, state.epoch.epoch];
  else bar.removeAttribute("value");
  one("#job-cancel").hidden = !active;
  const said = one("#job-text");
  said.textContent = words(state);
  said.classList.toggle("error-text", state instanceof Problem || state.state === "failed");
}

function words(state) {
  if (state instanceof Problem) {
    if (state.code === "unreachable") return text("unreachable");
    return state.status === 404 ? text("job.gone") : text("job.failed", { message: state.message });
  }
  if (state.state === "failed") return text("job.failed", { message: state.error.message });
  if (state.state === "running" && state.epoch) {
    const { epoch, loss, valid_accuracy: accuracy } = state.epoch;
    return text("job.epoch", { epoch: count(epoch), loss: decimal(loss), accuracy: accuracy === null ? "" : percent(accuracy) });
  }
  if (state.state === "done") {
    const { head, version, trained_rows: rows, valid_accuracy: accuracy, seconds } = state;
    return text("job.done", {
      name: head, version: version.slice(0, 8), rows: count(rows), accuracy: accuracy === null ? "" : percent(accuracy), seconds: decimal(seconds, 1),
    });
  }
  return text(`job.${state.state}`, { seconds: decimal(state.seconds ?? 0, 1) });
}
