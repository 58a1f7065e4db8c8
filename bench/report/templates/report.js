"use strict";

// Tables: a click on a heading sorts by it; a second one turns the order round. What has no
// figure stands last either way.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => row.cells[column].dataset.value;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
        const [p, q] = [Number(x), Number(y)];
        const order = Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q;
        return up ? order : -order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}

// Samples: a click enlarges; two rows can be laid over each other.
const dialog = document.querySelector("dialog");
for (const strip of document.querySelectorAll("button.strip")) {
  strip.addEventListener("click", () => {
    const image = strip.querySelector("img");
    dialog.querySelector("img").src = image.src;
    dialog.querySelector("img").alt = image.alt;
    dialog.querySelector("img").style.imageRendering = getComputedStyle(image).imageRendering;
    dialog.querySelector("p").textContent = image.alt;
    dialog.showModal();
  });
}
dialog.addEventListener("click", () => dialog.close());

for (const compare of document.querySelectorAll(".compare")) {
  compare.hidden = false;
  const [left, right] = compare.querySelectorAll("select");
  const stage = compare.querySelector(".stage");
  const slider = compare.querySelector("input");
  const show = () => {
    for (const [select, selector] of [[left, ".over"], [right, ".under"]]) {
      const source = document.getElementById(select.value);
      const image = stage.querySelector(selector);
      image.src = source.src;
      image.alt = source.alt;
    }
  };
  const cut = () => stage.style.setProperty("--cut", `${slider.value}%`);
  left.addEventListener("change", show);
  right.addEventListener("change", show);
  slider.addEventListener("input", cut);
  compare.querySelector("button").addEventListener("click", () => {
    slider.value = Number(slider.value) > 50 ? 0 : 100;
    cut();
  });
  show();
  cut();
}

// A link to how a row was made opens it; on paper everything is open.
const open = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) {
    for (let part = target; part; part = part.parentElement.closest("details")) part.open = true;
    target.scrollIntoView();
  }
};
window.addEventListener("hashchange", open);
open();
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});

const theme = document.getElementById("theme");
theme.hidden = false;
theme.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : window.matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
