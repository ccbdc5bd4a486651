"use strict";

const LISTED = 60; // neurons of a label that are listed at a time
const $ = (id) => document.getElementById(id);
const rows = [...document.querySelectorAll(".label")].map((element) => new Row(element));
const texts = [...document.querySelectorAll("#texts .text")];
let writing = null; // the AbortController of the text that is being written

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

/* The nearest whole number, of two the even one, as NeuronList.top takes it. */
function rounded(number) {
  const low = Math.floor(number);
  return number - low === 0.5 ? low + (low % 2) : Math.round(number);
}

/* One label: its slider, program, share of neurons, and the list of its neurons. */
function Row(element) {
  const find = (selector) => element.querySelector(selector);
  const [slider, strength, switched] = [find(".slider"), find(".strength"), find(".switched")];
  const [program, signal, share] = [find(".program"), find(".signal"), find(".share")];
  const kind = () => {
    const { strength, ...ends } = program.selectedOptions[0].dataset;
    return { strength, ...Object.fromEntries(Object.entries(ends).map(([name, value]) => [name, Number(value)])) };
  };
  this.label = element.dataset.label;
  const value = () => (kind().strength ? Number(strength.value || kind().neutral) : Number(slider.value));
  const isOn = () => !slider.disabled && value() !== kind().neutral;

  this.set = (given) => {
    if (kind().strength) strength.value = given;
    slider.value = given;
    this.show();
  };
  this.setProgram = () => {
    const { low, high, step, neutral } = kind();
    Object.assign(slider, { min: low, max: high, step });
    slider.classList.toggle("centred", low < neutral);
    this.set(neutral);
  };
  this.off = () => this.set(kind().neutral);
  this.show = () => {
    const named = kind().strength;
    const selected = Number(element.dataset.neurons);
    const taken = Math.min(selected, Math.max(1, rounded(selected * (share.value / 100))));
    element.classList.toggle("on", isOn());
    strength.hidden = !named;
    switched.hidden = Boolean(named);
    switched.textContent = isOn() ? "on" : "off";
    strength.ariaLabel = `${named} of ${this.label}`;
    slider.ariaValueText = isOn() ? `${program.value}${named ? `, ${named} ${value()}` : ""}` : "off";
    find(".from").hidden = program.value !== "cross-signal";
    find(".share + output").textContent = share.ariaValueText = `${share.value} %`;
    const number = `${taken === selected ? "" : `${taken} of `}${count(selected, "neuron")}`;
    find(".told").textContent = selected ? `${program.value}, ${number}` : "no neurons";
  };
  this.read = () =>
    isOn()
      ? {
          label: this.label,
          program: program.value,
          strength: kind().strength ? value() : null,
          share: Number(share.value) / 100,
          signal: program.value === "cross-signal" ? signal.value : null,
        }
      : null;
  this.restore = (steered) => {
    if (![...program.options].some((option) => option.value === steered.program)) throw new Error(steered.program);
    program.value = steered.program;
    this.setProgram();
    if (steered.signal !== null) signal.value = steered.signal;
    share.value = Math.round(100 * steered.share);
    this.set(steered.strength ?? kind().usual);
  };

  slider.addEventListener("input", () => this.set(Number(Number(slider.value).toPrecision(6))));
  strength.addEventListener("input", () => {
    slider.value = value();
    this.show();
  });
  program.addEventListener("change", () => {
    const on = element.classList.contains("on");
    this.setProgram();
    if (on) this.set(kind().usual);
  });
  share.addEventListener("input", this.show);
  element.addEventListener("change", keep);
  find("details").addEventListener("toggle", () => list(this.label, find(".neurons")));
  this.setProgram();
}

/* Neurons and their cards. */
async function read(path, values) {
  let response;
  try {
    response = await fetch(`${path}?${new URLSearchParams(values)}`);
  } catch {
    throw new Error("The server does not answer.");
  }
  if (!response.ok) throw new Error((await response.json()).error);
  return response;
}

async function list(label, place) {
  if (place.childElementCount) return;
  let listed;
  try {
    listed = await (await read("/neurons", { label })).json();
  } catch (error) {
    fail(error.message);
    return;
  }
  const { axis, sites, neurons } = listed;
  const more = (from) => {
    for (const [site, index, score] of neurons.slice(from, from + LISTED)) {
      const name = `${axis} ${sites[site]}, neuron ${index}`;
      const shown = score.toPrecision(3);
      const button = make(
        "button",
        { type: "button", title: `${name} (${site})`, ariaLabel: `${name}, score ${shown}: show its card` },
        `${sites[site]}:${index} `,
        make("span", { className: "score" }, shown),
      );
      button.addEventListener("click", () => showCard(site, index, name));
      place.append(button);
    }
    const left = neurons.length - from - LISTED;
    if (left > 0) {
      const button = make("button", { type: "button" }, `${left} more`);
      button.addEventListener("click", () => {
        button.remove();
        more(from + LISTED);
      });
      place.append(button);
    }
  };
  const hint = `${axis}:neuron and its score, best first. A click shows its card.`;
  place.replaceChildren(make("p", { className: "hint" }, hint));
  more(0);
}

async function showCard(site, index, name) {
  const content = $("card").querySelector(".content");
  try {
    content.innerHTML = await (await read("/card", { site, index })).text();
  } catch (error) {
    content.textContent = error.message;
  }
  $("card").ariaLabel = name;
  $("card").showModal();
}

/* What is asked for: the fields of the form, which the address keeps. */
const FIELDS = { prompt: String, max_new_tokens: Number, temperature: Number, seed: Number };

function asked() {
  const request = { steered: rows.map((row) => row.read()).filter(Boolean) };
  for (const [name, as] of Object.entries(FIELDS)) request[name] = as($(name).value);
  request.chat = Boolean($("chat")?.checked);
  return request;
}

function keep() {
  history.replaceState(null, "", `#${encodeURIComponent(JSON.stringify(asked()))}`);
}

function restore() {
  if (location.hash.length < 2) return;
  try {
    const request = JSON.parse(decodeURIComponent(location.hash.slice(1)));
    for (const name of Object.keys(FIELDS)) $(name).value = request[name] ?? $(name).defaultValue;
    if ($("chat")) $("chat").checked = request.chat ?? true;
    rows.forEach((row) => row.off());
    for (const steered of request.steered ?? []) rows.find((row) => row.label === steered.label).restore(steered);
  } catch {
    fail("The address has settings that this page does not know.");
  }
}

/* Writing: a stream of events, each a line of JSON. */
function fail(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

function begin(request) {
  fail("");
  const shown = request.chat ? "" : request.prompt.replace("{bos}", "");
  for (const text of texts) {
    text.querySelector(".written").replaceChildren(make("span", { className: "given" }, shown), "");
  }
  $("program-told").textContent = request.steered.length ? request.steered.map((one) => one.label).join(" + ") : "No label is on.";
  texts[1].querySelector(".given").hidden = !request.steered.length;
  $("probabilities").hidden = true;
  $("probabilities").querySelector(".tables").replaceChildren();
}

function told(request, event) {
  const parts = texts.map((text) => text.querySelector(".written").lastChild);
  event.pieces?.forEach((piece, position) => parts[position].appendData(piece));
  if (event.texts) {
    event.texts.forEach((text, position) => (parts[position].data = text));
    $("status").textContent = `${count(event.tokens, "token")} in ${event.seconds.toFixed(1)} s; reading P(label) …`;
    if (event.program) {
      const { name, neurons, dose } = event.program;
      const same = event.texts[0] === event.texts[1] ? "; the text is the same" : "";
      $("program-told").textContent =
        `${name}, ${count(neurons, "neuron")}${dose === null ? "" : `, dose ${dose.toPrecision(2)}`}${same}`;
    }
  }
  if (event.task) showProbabilities(request, event);
}

function showProbabilities(request, { task, probabilities, left_out: reason }) {
  $("probabilities").hidden = false;
  const tables = $("probabilities").querySelector(".tables");
  if (reason) {
    tables.append(make("p", { className: "left-out" }, `${task}: left out, ${reason}`));
    return;
  }
  const on = new Set(request.steered.map((one) => one.label));
  const lines = Object.entries(probabilities).map(([label, of]) => {
    const meters = of.map((share, position) => {
      const kind = position ? "steered" : "unsteered";
      const fill = make("div", { className: `fill ${kind}` });
      fill.style.width = `${100 * share}%`;
      const meter = make(
        "div", { className: "meter" }, make("div", { className: "track" }, fill),
        make("span", { className: "value" }, percent(share)),
      );
      Object.assign(meter, { role: "img", ariaLabel: `${kind} ${percent(share)}` });
      return meter;
    });
    const head = make("th", { scope: "row", dir: "auto" }, label);
    return make("tr", { className: on.has(label) ? "on" : "" }, head, make("td", {}, ...meters));
  });
  tables.append(make("table", {}, make("caption", {}, task), make("tbody", {}, ...lines)));
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

async function write() {
  if (writing || !$("prompt-form").reportValidity()) return;
  const request = asked();
  const control = (writing = new AbortController());
  keep();
  begin(request);
  busy(true);
  $("status").textContent = "writing …";
  if (matchMedia("(max-width: 56rem)").matches) $("texts").scrollIntoView({ behavior: "smooth" });
  try {
    const response = await fetch("/write", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(request),
      signal: control.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error);
    let whole = false;
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error);
      whole ||= Boolean(event.texts);
      told(request, event);
    }
    if (!whole) throw new Error("The server ended the text.");
    $("status").textContent = $("status").textContent.replace("; reading P(label) …", "");
  } catch (error) {
    $("status").textContent = control.signal.aborted ? "stopped" : "";
    if (!control.signal.aborted) fail(error instanceof TypeError ? "The server does not answer." : error.message);
  } finally {
    writing = null;
    busy(false);
  }
}

function busy(is) {
  $("write").disabled = is;
  $("stop").disabled = !is;
}

$("prompt-form").addEventListener("submit", (event) => {
  event.preventDefault();
  write();
});
$("prompt-form").addEventListener("change", keep);
$("stop").addEventListener("click", () => writing?.abort());
$("reset").addEventListener("click", () => {
  rows.forEach((row) => row.off());
  keep();
});
$("close").addEventListener("click", () => $("card").close());
$("card").addEventListener("click", (event) => {
  if (event.target === $("card")) $("card").close();
  if (event.target.closest("a")) event.preventDefault(); // a card's link to itself, where the address has the settings
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !$("card").open) {
    event.preventDefault();
    write();
  }
});
window.addEventListener("hashchange", restore);
restore();
