"use strict";
// Filter and sort the cards, and show the nearest patches of a patch. All data is within the page.

const page = JSON.parse(document.getElementById("rows").textContent);
const list = document.getElementById("cards");
const cards = [...list.children];
const form = document.getElementById("choose");
const filters = [...form.querySelectorAll("[data-filter]")];
const sort = document.getElementById("sort");
const NONE = 0xffff;

// Rows that a flag holds for come first, those that it holds for most before the others.
const weights = {
  doubtful: (row) => (row.doubtful ? 1 : -Infinity),
  blank: (row) => (row.blank ? 1 : -Infinity),
  duplicate: (row) => (row.bits === null ? -Infinity : (row.otherPatient ? 1000 : 0) - row.bits),
  outlier: (row) => (row.outlier === null ? -Infinity : row.outlier),
  row: (row) => -row.number,
};
const holds = {
  doubtful: (row) => row.doubtful,
  blank: (row) => row.blank,
  duplicate: (row) => row.bits !== null,
  outlier: (row) => row.isOutlier,
};

function arrange() {
  let shown = 0;
  page.rows.forEach((row, place) => {
    const fits = filters.every(({ value, dataset: { filter } }) =>
      value === "" || (filter === "flag" ? holds[value](row) : row[filter] === Number(value)));
    cards[place].hidden = !fits;
    shown += fits;
  });
  document.getElementById("count").textContent = `${shown} of ${cards.length} rows`;
  document.getElementById("none").hidden = shown > 0;
}

function order() {
  const weight = weights[sort.value];
  const places = cards.map((_, place) => place);
  if (weight) {
    const of = places.map((place) => weight(page.rows[place]));
    places.sort((a, b) => (of[a] === of[b] ? a - b : of[b] - of[a]));
  }
  list.append(...places.map((place) => cards[place]));
}

function showAll() {
  for (const filter of filters) filter.value = "";
  arrange();
}

function reveal(place) {
  if (cards[place].hidden) showAll();
  cards[place].scrollIntoView({ block: "center" });
}

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("change", (event) => {
  if (event.target === sort) order();
  arrange();
});
document.getElementById("reset").addEventListener("click", showAll);
document.getElementById("region").addEventListener("change", (event) =>
  list.classList.toggle("no-region", !event.target.checked));
list.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#r']");
  if (!link) return;
  const place = cards.findIndex((card) => `#${card.id}` === link.getAttribute("href"));
  if (cards[place].hidden) showAll();
  cards[place].focus({ preventScroll: true });
});
form.hidden = false;
// A browser may have kept what was chosen before a reload.
document.getElementById("region").checked = true;
sort.value = "";
showAll();

// --- Nearest patches -------------------------------------------------------------------------------------------------

const near = document.getElementById("near");
const nearest = document.getElementById("nearest");
const asked = document.getElementById("asked");
let chosen = null;

function neighboursOf(place, patch) {
  const bytes = Uint8Array.from(atob(page.rows[place].nearest), (letter) => letter.charCodeAt(0));
  const numbers = new DataView(bytes.buffer);
  const each = page.neighbours;
  const size = 2 * each * page.edge * page.edge;
  const found = [];
  for (let i = 0; i < each; i += 1) {
    const at = patch * each + i;
    const other = numbers.getUint16(2 * at, true);
    if (other !== NONE) {
      found.push({ place: other, patch: numbers.getUint16(size + 2 * at, true),
        cosine: numbers.getInt8(2 * size + at) / 127 });
    }
  }
  return found;
}

// Lay a box on a patch of a picture, of which `zoom` times the whole is seen from `left`, `top` on (shares of it).
function boxOn(picture, patch, zoom = 1, left = 0, top = 0) {
  const box = document.createElement("span");
  box.className = "box";
  const share = 100 / page.edge;
  box.style.left = `${((patch % page.edge) * share - 100 * left) * zoom}%`;
  box.style.top = `${(Math.floor(patch / page.edge) * share - 100 * top) * zoom}%`;
  box.style.width = box.style.height = `${share * zoom}%`;
  picture.append(box);
}

function pictureOf(place, patch, zoomed) {
  const picture = document.createElement("span");
  picture.className = "picture";
  const image = document.createElement("img");
  image.src = cards[place].querySelector(".frame img").src;
  image.alt = "";
  picture.append(image);
  if (!zoomed) {
    boxOn(picture, patch);
    return picture;
  }
  const seen = Math.min(5, page.edge) / page.edge;
  const from = (number) => Math.max(0, Math.min(1 - seen, (number + 0.5) / page.edge - seen / 2));
  const left = from(patch % page.edge);
  const top = from(Math.floor(patch / page.edge));
  image.style.inset = "auto";
  image.style.width = image.style.height = `${100 / seen}%`;
  image.style.left = `${-100 * left / seen}%`;
  image.style.top = `${-100 * top / seen}%`;
  boxOn(picture, patch, 1 / seen, left, top);
  return picture;
}

function itemOf({ place, patch, cosine }) {
  const row = page.rows[place];
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  const pictures = document.createElement("span");
  pictures.className = "pictures";
  pictures.append(pictureOf(place, patch, false), pictureOf(place, patch, true));
  const name = (key) => page.names[key][row[key]];
  const text = `row ${row.number} · ${name("label")} · ${name("group")}`;
  button.append(pictures, cosine === undefined ? `asked: ${text}` : `${cosine.toFixed(2)} · ${text}`);
  button.addEventListener("click", () => {
    reveal(place);
    choose(place, patch);
    cards[place].querySelector(".frame").focus({ preventScroll: true });
  });
  if (cosine === undefined) item.className = "asked";
  item.append(button);
  return item;
}

function unmark() {
  for (const box of list.querySelectorAll(".box")) box.remove();
}

function choose(place, patch) {
  chosen = { place, patch };
  unmark();
  for (const picture of cards[place].querySelectorAll(".frame, .colours")) boxOn(picture, patch);
  const found = neighboursOf(place, patch);
  const row = page.rows[place];
  const where = `Row ${row.number}, patch ${1 + (patch % page.edge)} across, ${1 + Math.floor(patch / page.edge)} down`;
  asked.textContent = found.length
    ? `${where}: the nearest patches of other patients, with their cosine`
    : `${where}: ${page.alone ? "this page has no row of another patient" : "outside the scan region, not compared"}`;
  nearest.replaceChildren(itemOf({ place, patch }), ...found.map(itemOf));
  nearest.scrollLeft = 0;
  near.hidden = false;
  document.body.classList.add("asking");
}

function close() {
  near.hidden = true;
  document.body.classList.remove("asking");
  unmark();
  if (chosen) cards[chosen.place].querySelector(".frame").focus({ preventScroll: true });
  chosen = null;
}

function patchAt(picture, event) {
  const box = picture.getBoundingClientRect();
  const step = (at, low, size) => Math.max(0, Math.min(page.edge - 1, Math.floor(((at - low) / size) * page.edge)));
  return step(event.clientY, box.top, box.height) * page.edge + step(event.clientX, box.left, box.width);
}

function patchBeside(patch, key) {
  const across = patch % page.edge;
  const down = Math.floor(patch / page.edge);
  const moved = {
    ArrowLeft: [across - 1, down], ArrowRight: [across + 1, down],
    ArrowUp: [across, down - 1], ArrowDown: [across, down + 1],
  }[key];
  const fits = moved && moved.every((number) => number >= 0 && number < page.edge);
  return fits ? moved[1] * page.edge + moved[0] : patch;
}

if (page.edge) {
  document.getElementById("hint").hidden = false;
  const middle = Math.floor(page.edge / 2) * (page.edge + 1);
  cards.forEach((card, place) => {
    const current = () => (chosen && chosen.place === place ? chosen.patch : middle);
    const frame = card.querySelector(".frame");
    for (const picture of card.querySelectorAll(".frame, .colours")) {
      // A press of Enter is a click without a place.
      picture.addEventListener("click", (event) =>
        choose(place, event.detail === 0 ? current() : patchAt(picture, event)));
    }
    frame.addEventListener("keydown", (event) => {
      if (!event.key.startsWith("Arrow")) return;
      event.preventDefault();
      choose(place, chosen && chosen.place === place ? patchBeside(chosen.patch, event.key) : middle);
    });
  });
  document.getElementById("close").addEventListener("click", close);
  for (const button of near.querySelectorAll("[data-key]")) {
    button.addEventListener("click", () => choose(chosen.place, patchBeside(chosen.patch, button.dataset.key)));
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !near.hidden) close();
  });
}
