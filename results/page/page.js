"use strict";
// Filters: an element with data-grid, data-task, data-dataset or data-profile is of that one only; without it, of all.
(() => {
  const runs = JSON.parse(document.getElementById("run-data").textContent);
  const selects = [...document.querySelectorAll("#filters select")];
  const items = [...document.querySelectorAll("[data-item]")];
  const empty = (section) => section.querySelector(".empty");

  const chosen = () => Object.fromEntries(selects.filter((s) => s.value).map((s) => [s.name, s.value]));

  function apply() {
    const want = chosen();
    let shown = 0;
    for (const item of items) {
      const plain = ["grid", "task", "dataset", "profile"].every((key) => !want[key] || !item.dataset[key] || item.dataset[key] === want[key]);
      const widths = item.dataset.widths ? item.dataset.widths.split(" ") : [];
      item.hidden = !(plain && (!want.width || !widths.length || widths.includes(want.width)));
      shown += item.hidden ? 0 : 1;
      for (const cell of item.querySelectorAll("[data-w]")) cell.hidden = Boolean(want.width) && cell.dataset.w !== want.width;
      for (const over of item.querySelectorAll("th.over")) {
        const row = over.closest("thead").lastElementChild;
        over.colSpan = Math.max(1, row.querySelectorAll("th[data-w]:not([hidden])").length || over.colSpan);
      }
    }
    for (const section of document.querySelectorAll("section")) {
      if (empty(section)) empty(section).hidden = [...section.querySelectorAll("[data-item]")].some((item) => !item.hidden);
    }
    document.getElementById("shown").textContent = `${shown} of ${items.length} shown`;
    history.replaceState(null, "", Object.keys(want).length ? "#?" + new URLSearchParams(want) : location.pathname + location.search);
  }

  for (const select of selects) select.addEventListener("change", apply);
  document.getElementById("reset").addEventListener("click", () => {
    for (const select of selects) select.value = "";
    apply();
  });

  // Where a number comes from.
  const dialog = document.getElementById("origin");
  const list = dialog.querySelector("ul");
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.n");
    if (!button) return;
    const values = button.dataset.values.split(" ");
    list.replaceChildren(...button.dataset.runs.split(" ").map((index, place) => {
      const run = runs[index], [seed, value] = values[place].split(":");
      const line = document.createElement("li"), link = document.createElement("a");
      link.href = `#run-${index}`;
      link.textContent = run.place;
      link.addEventListener("click", () => dialog.close());
      line.append(`seed ${seed}: ${(100 * value).toFixed(2)} from `, link, `, commit ${run.commit || "not recorded"}`);
      return line;
    }));
    dialog.querySelector("p").textContent = button.textContent + (button.dataset.interval ? `, 95 % interval ${button.dataset.interval}` : "");
    dialog.showModal();
  });

  if (location.hash.startsWith("#?")) {
    for (const [name, value] of new URLSearchParams(location.hash.slice(2))) {
      const select = selects.find((s) => s.name === name);
      if (select && [...select.options].some((option) => option.value === value)) select.value = value;
    }
    apply();
  } else {
    document.getElementById("shown").textContent = `${items.length} of ${items.length} shown`;
  }
})();
