"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (selector, from = document) => [...from.querySelectorAll(selector)];

  /** An element; what is given as text stays text, whatever it holds. */
  const make = (name, className = "", text = "") => {
    const element = document.createElement(name);
    element.className = className;
    element.textContent = text;
    return element;
  };
  const percent = share => share === null ? "-" : `${(100 * share).toFixed(1)}\u00a0%`;

  // --- tables: a press on a head sorts by it ---
  const valueOf = cell => cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  for (const table of find("table.rows")) {
    find("thead th", table).forEach((head, column, heads) => head.firstElementChild?.addEventListener("click", () => {
      const isText = head.classList.contains("text");
      const before = head.getAttribute("aria-sort");
      const direction = before ? (before === "ascending" ? "descending" : "ascending") : isText ? "ascending" : "descending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", direction);
      const sign = direction === "ascending" ? 1 : -1;
      const rows = [...table.tBodies[0].rows].map(row => [valueOf(row.cells[column]), row]);
      rows.sort(([a], [b]) => Number.isNaN(a) || Number.isNaN(b) ? Number.isNaN(a) - Number.isNaN(b) : sign * compare(a, b));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    }));
  }

  // --- which frames of a video the model saw: a row a window ---
  const seenFrames = numFrames => {
    const windows = data.windows[numFrames] || [];
    const svg = document.getElementById("seen-frames").content.firstElementChild.cloneNode(true);
    const mark = svg.firstElementChild;
    mark.remove();
    const shown = windows.length === 1 ? "one window" : `${windows.length} windows`;
    svg.setAttribute("viewBox", `0 0 ${numFrames} ${windows.length || 1}`);
    svg.setAttribute("height", Math.min(40, Math.max(10, 4 * windows.length)));
    svg.setAttribute("aria-label", `${shown} in ${numFrames} frames`);
    windows.forEach((runs, row) => runs.forEach(([first, count]) => {
      const rect = mark.cloneNode();
      const width = Math.max(count - 0.15, numFrames / 160);
      Object.entries({ x: first, y: row + 0.08, width, height: 0.84 }).forEach(([name, value]) => rect.setAttribute(name, value));
      svg.append(rect);
    }));
    return svg;
  };
  for (const place of find("[data-frames-seen]")) place.append(seenFrames(place.dataset.framesSeen));

  // --- the list of videos ---
  const list = document.getElementById("videos");
  if (list) {
    const truth = document.getElementById("truth"), answer = document.getElementById("answer");
    const count = document.getElementById("count"), more = document.getElementById("more");
    const cells = find("[data-truth]");
    const PAGE = 24;
    let chosen = [], numShown = 0;

    const entry = ([name, label, prediction, score, own, numFrames, thumbnail, card]) => {
      const item = make("li"), texts = make("div");
      const image = thumbnail < 0 ? make("span", "nothumb") : make("img");
      if (thumbnail >= 0) {
        image.src = data.thumbnails[thumbnail];
        image.alt = "";
      }
      const line = make("p", label === prediction ? "hit" : "wrong");
      const answered = make("b");
      answered.append(make("bdi", "", data.classes[prediction] ?? "no valid answer"), ` ${percent(score)}`);
      line.append(answered);
      if (label !== prediction) line.append(", is ", make("bdi", "", data.classes[label]), ` (${percent(own)})`);
      texts.append(make("p", "name", name), line);
      if (numFrames) texts.append(seenFrames(numFrames));
      if (card >= 0) {
        const link = make("a", "", "see the clip");
        link.href = `#clip-${card}`;
        texts.append(link);
      }
      item.append(...(data.thumbnails ? [image, texts] : [texts]));
      return item;
    };
    const showMore = () => {
      list.append(...chosen.slice(numShown, numShown + PAGE).map(entry));
      numShown = list.children.length;
      more.hidden = numShown >= chosen.length;
      more.textContent = `Show ${Math.min(PAGE, chosen.length - numShown)} more of ${chosen.length}`;
    };
    const choose = () => {
      const [label, prediction] = [truth.value, answer.value];
      chosen = data.videos.filter(([, t, p]) =>
        (label === "" || t === Number(label)) &&
        (prediction === "" || (prediction === "wrong" ? p !== t : p === Number(prediction))));
      list.replaceChildren();
      numShown = 0;
      showMore();
      const cut = data.videosLeftOut ? ` of the ${data.videos.length} listed here` : "";
      count.textContent = chosen.length === 1 ? `1 video${cut}` : `${chosen.length} videos${cut}`;
      cells.forEach(cell => cell.setAttribute("aria-pressed", cell.dataset.truth === label && cell.dataset.answer === prediction));
    };
    data.classes.forEach((name, i) => [truth, answer].forEach(select => select.append(new Option(name, i))));
    if (!data.videos.some(([, t, p]) => t !== p)) answer.value = "";
    truth.addEventListener("change", choose);
    answer.addEventListener("change", choose);
    more.addEventListener("click", () => {
      const first = numShown;
      showMore();
      list.children[first]?.querySelector("a")?.focus();
    });
    cells.forEach(cell => cell.addEventListener("click", () => {
      truth.value = cell.dataset.truth;
      answer.value = cell.dataset.answer;
      choose();
      count.focus({ preventScroll: true });
      count.scrollIntoView({ block: "center" });
    }));
    choose();
  }

  // --- clips: one frame of a strip at a time ---
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const SECONDS_A_FRAME = 0.16;
  const cards = find(".card").map(card => {
    const strips = find(".film img", card), slider = card.querySelector("input"), button = card.querySelector("button");
    const numFrames = Number(card.dataset.frames);
    const show = frame => {
      slider.value = frame;
      slider.setAttribute("aria-valuetext", `frame ${frame + 1} of ${numFrames}`);
      strips.forEach(strip => { strip.style.transform = `translateX(${-100 * Math.floor(frame * strip.dataset.frames / numFrames) / strip.dataset.frames}%)`; });
    };
    const player = {
      plays: false, visible: true,
      play(on) {
        player.plays = on;
        button.textContent = on ? "Pause" : "Play";
        button.setAttribute("aria-label", `${button.textContent} ${card.querySelector("h3").textContent}`);
      },
      step() { if (player.plays && player.visible) show((Number(slider.value) + 1) % numFrames); },
    };
    slider.addEventListener("input", () => { player.play(false); show(Number(slider.value)); });
    button.addEventListener("click", () => player.play(!player.plays));
    if (typeof IntersectionObserver === "function") new IntersectionObserver(([seen]) => { player.visible = seen.isIntersecting; }).observe(card);
    show(Math.floor(numFrames / 2));
    player.play(!still);
    return player;
  });
  if (cards.length) {
    const all = document.getElementById("all-clips");
    all.textContent = still ? "Play all" : "Pause all";
    all.addEventListener("click", () => {
      const on = !cards.some(player => player.plays);
      cards.forEach(player => player.play(on));
      all.textContent = on ? "Pause all" : "Play all";
    });
    setInterval(() => cards.forEach(player => player.step()), 1000 * SECONDS_A_FRAME);
  }
  addEventListener("beforeprint", () => find("details").forEach(details => { details.open = true; }));
})();
