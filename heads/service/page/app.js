// Starts the page: what the service serves, the language, and the wires between the parts.

import { all, make, one, open } from "./dom.js";
import { startIntake } from "./intake.js";
import { loadCorrections, onCorrection, setClasses } from "./labels.js";
import { count, language, setLanguage, text, translate } from "./messages.js";
import { add, askAgain, redraw, sayBusy, setKnown, startResults } from "./results.js";
import { hasToken, json, setUp } from "./service.js";
import { drawTraining, offerTraining, startTraining } from "./training.js";

const POLL = 2000; // milliseconds, while the service is not ready
let service = null;
let problem = null;

setUp({ onToken: token, onBusy: sayBusy });
translate();
startResults(report);
startIntake(add, () => banner(text("nothingDropped")));
startTraining(async () => {
  await refresh();
  askAgain();
});
onCorrection(drawTraining);
for (const button of all("[data-language]")) {
  button.addEventListener("click", () => {
    if (button.dataset.language === language()) return;
    setLanguage(button.dataset.language);
    draw();
    redraw();
    drawTraining();
  });
}
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && refresh());
refresh();

// Ask what is served, and show it; ask again while the service is not ready.
async function refresh() {
  try {
    service = await json("heads");
    problem = null;
    setKnown({ hasCache: Boolean(service.cache) });
    setClasses([...service.heads.flatMap((head) => head.classes), ...(service.cache?.classes ?? [])]);
    if (service.cache) await loadCorrections();
    await offerTraining(service);
  } catch (error) {
    problem = error;
  }
  draw();
  if (problem || !service.ready) setTimeout(refresh, POLL);
}

// A request failed, or, with null, the service has answered again.
function report(error) {
  if ((error?.code === "unreachable") === (problem?.code === "unreachable")) return;
  problem = error?.code === "unreachable" ? error : null;
  draw();
}

function draw() {
  if (problem) banner(problem.code === "unreachable" ? text("unreachable") : problem.message);
  else if (service?.ready) banner("");
  else if (service) banner(service.heads.length || !service.cache ? text("notReady", service.faults.join("; ")) : text("noHead"));
  one("#programs").hidden = hasToken(); // a link cannot send it
  if (!service) return;
  const { recipe, cache, heads } = service;
  one("#summary").textContent = text("summary", {
    network: recipe.backbone, heads: count(heads.length), rows: cache ? count(cache.rows) : null,
  });
  const facts = [
    ["aboutNetwork", recipe.backbone],
    ["aboutWeights", recipe.weights.slice(0, 20)],
    ["aboutRecipe", recipe.fingerprint.slice(0, 12)],
    cache ? ["aboutCache", text("rows", { rows: count(cache.rows), classes: count(cache.classes.length) })] : null,
  ];
  one("#about").replaceChildren(
    ...facts.filter(Boolean).map(([key, value]) => make("div", {}, make("dt", { text: text(key) }), make("dd", { text: value }))),
  );
}

function banner(words) {
  const place = one("#banner");
  if (place.textContent !== words) place.textContent = words;
  place.hidden = !words;
}

function token() {
  const dialog = one("#token-dialog");
  const input = one("#token-input");
  input.value = "";
  open(dialog);
  input.focus();
  return new Promise((resolve) => {
    dialog.onclose = () => resolve(input.value.trim());
  });
}
