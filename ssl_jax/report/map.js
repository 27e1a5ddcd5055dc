// Shows the picture under the pointer (or the finger). The page is complete without it.
"use strict";
for (const figure of document.querySelectorAll(".map")) {
  const svg = figure.querySelector("svg");
  const card = figure.querySelector(".card");
  const sheet = card.querySelector("img");
  const columns = Number(card.dataset.columns), rows = Number(card.dataset.rows);
  const ring = svg.querySelector(".ring");
  const points = [];
  for (const path of svg.querySelectorAll(".dots"))
    for (const [, x, y] of path.getAttribute("d").matchAll(/M([\d.]+) ([\d.]+)/g))
      points.push([Number(x), Number(y), path.dataset.name]);
  const show = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    let best = -1, least = 30 * 30;
    points.forEach(([x, y], i) => {
      const distance = (x - at.x) ** 2 + (y - at.y) ** 2;
      if (distance < least) { least = distance; best = i; }
    });
    card.hidden = best < 0;
    ring.setAttribute("visibility", best < 0 ? "hidden" : "visible");
    if (best < 0) return;
    const [x, y, name] = points[best];
    ring.setAttribute("cx", x);
    ring.setAttribute("cy", y);
    card.querySelector(".name").textContent = name;
    const view = card.querySelector(".window");
    const cellWidth = sheet.naturalWidth / columns, cellHeight = sheet.naturalHeight / rows;
    const zoom = 96 / Math.max(cellWidth, cellHeight);
    view.style.width = cellWidth * zoom + "px";
    view.style.height = cellHeight * zoom + "px";
    sheet.style.width = sheet.naturalWidth * zoom + "px";
    sheet.style.left = -(best % columns) * cellWidth * zoom + "px";
    sheet.style.top = -Math.floor(best / columns) * cellHeight * zoom + "px";
    const box = figure.getBoundingClientRect();
    const left = event.clientX - box.left, top = event.clientY - box.top;
    card.style.left = Math.min(left + 16, box.width - card.offsetWidth - 4) + "px";
    card.style.top = (top > card.offsetHeight + 24 ? top - card.offsetHeight - 16 : top + 24) + "px";
  };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", () => { card.hidden = true; ring.setAttribute("visibility", "hidden"); });
}
