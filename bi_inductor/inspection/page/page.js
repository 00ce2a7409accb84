"use strict";
// One report, drawn on demand: only the rows in sight and one level of modules exist in the document.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const MARKS = ["●", "◆", "▲", "?", "✕"];
  const $ = (id) => document.getElementById(id);
  const el = (tag, props = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(props)) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (key in made && key !== "role") made[key] = value;
      else made.setAttribute(key, value);
    }
    made.append(...children.filter((c) => c !== null && c !== undefined));
    return made;
  };
  const svg = (tag, props = {}, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(props)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  // ---- the report as objects
  const S = data.strings;
  const TEXT = new Set(["name", "op", "template", "plan", "reason", "remedy", "file", "code", "module", "dtype", "shape", "before"]);
  const LISTS = new Set(["reduces", "depends_on", "after"]);
  const graphs = data.graphs.map((graph) => {
    const nodes = graph.nodes.map((row, index) => {
      const node = { index, users: [] };
      data.fields.forEach((field, i) => {
        node[field] = TEXT.has(field) ? S[row[i]] : LISTS.has(field) ? row[i].map((s) => S[s]) : row[i];
      });
      node.short = node.op.replace(/^aten\./, "").replace(/\.default$/, "");
      node.said = node.verdict > 1 ? node.reason : node.plan;
      node.place = node.file ? `${node.file.split("/").pop()}:${node.line}` : "";
      node.hay = [node.name, node.op, data.verdicts[node.verdict], node.module, node.file, node.code, node.template, node.plan, node.reason, node.shape].join("\n").toLowerCase();
      return node;
    });
    for (const node of nodes) for (const i of node.inputs) if (typeof i === "number") nodes[i].users.push(node.index);
    return { ...graph, nodes, root: tree(nodes) };
  });

  function tree(nodes) {
    const root = { path: "", label: "(model)", children: new Map(), nodes: [], counts: [0, 0, 0, 0, 0], parent: null };
    for (const node of nodes) {
      let at = root;
      root.counts[node.verdict]++;
      let path = "";
      for (const part of node.module ? node.module.split(".") : []) {
        path = path ? `${path}.${part}` : part;
        if (!at.children.has(part)) at.children.set(part, { path, label: part, children: new Map(), nodes: [], counts: [0, 0, 0, 0, 0], parent: at });
        at = at.children.get(part);
        at.counts[node.verdict]++;
      }
      at.nodes.push(node.index);
      node.home = at;
    }
    return root;
  }
  const total = (counts) => counts.reduce((a, b) => a + b, 0);
  const find = (path) => {
    let at = graphs[state.graph].root;
    for (const part of path ? path.split(".") : []) { at = at.children.get(part); if (!at) return null; }
    return at;
  };

  // ---- state, kept in the address so that a view can be linked to
  const VIEWS = { graph: "Graph", list: "List", code: "FX code", kernel: "Kernel" };
  const state = { graph: 0, module: "", node: -1, query: "", view: "graph", off: new Set(), open: new Set() };
  function load() {
    const given = new URLSearchParams(location.hash.slice(1));
    state.graph = Math.min(Number(given.get("graph") || 0), Math.max(graphs.length - 1, 0));
    state.query = given.get("q") || "";
    state.view = VIEWS[given.get("view")] ? given.get("view") : "graph";
    state.module = given.get("module") || "";
    state.off = new Set((given.get("off") || "").split(",").filter(Boolean).map(Number));
    if (given.get("theme")) document.documentElement.dataset.theme = given.get("theme");
    const name = given.get("node");
    state.node = name && graphs.length ? graphs[state.graph].nodes.findIndex((n) => n.name === name) : -1;
    if (graphs.length && !find(state.module)) state.module = "";
    reveal(state.module);
  }
  function save() {
    const out = new URLSearchParams();
    if (state.graph) out.set("graph", state.graph);
    if (state.query) out.set("q", state.query);
    if (state.view !== "graph") out.set("view", state.view);
    if (state.module) out.set("module", state.module);
    if (state.off.size) out.set("off", [...state.off].join(","));
    if (state.node >= 0) out.set("node", graphs[state.graph].nodes[state.node].name);
    const theme = document.documentElement.dataset.theme;
    if (theme) out.set("theme", theme);
    history.replaceState(null, "", `#${out}`);
  }
  function reveal(path) {
    const parts = path ? path.split(".") : [];
    parts.forEach((_, i) => state.open.add(parts.slice(0, i).join(".")));
    state.open.add("");
  }
  let matching = [];
  function search() {
    const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
    const prefix = state.module ? `${state.module}.` : "";
    matching = graphs.length === 0 ? [] : graphs[state.graph].nodes.filter((n) =>
      !state.off.has(n.verdict) && words.every((w) => n.hay.includes(w)) &&
      (!state.module || n.module === state.module || n.module.startsWith(prefix)));
    $("hits").textContent = words.length ? `${matching.length} found` : "";
  }

  // ---- a list of which only the rows in sight exist
  function virtual(stage, count, height, draw, top = 0) {
    const tall = el("div", { className: "tall" });
    tall.style.height = `${count * height}px`;
    stage.append(tall);
    let first = -1, last = -1;
    const show = () => {
      const from = Math.max(Math.floor((stage.scrollTop - top) / height) - 8, 0);
      const to = Math.min(from + Math.ceil(stage.clientHeight / height) + 16, count);
      if (from === first && to === last) return;
      [first, last] = [from, to];
      tall.replaceChildren(...Array.from({ length: to - from }, (_, i) => {
        const row = draw(from + i);
        row.style.top = `${(from + i) * height}px`;
        return row;
      }));
    };
    stage.onscroll = show;
    show();
    return { to: (i) => { const y = i * height + top; if (y < stage.scrollTop + top + height || y > stage.scrollTop + stage.clientHeight - 2 * height) stage.scrollTop = Math.max(y - stage.clientHeight / 2, 0); first = -1; show(); }, again: () => { first = -1; show(); } };
  }

  // ---- header
  const many = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
  const mark = (v) => el("span", { className: `mark v${v}`, title: data.verdicts[v] }, MARKS[v]);
  function header() {
    $("name").textContent = data.name;
    const badge = $("badge");
    badge.className = `badge ${data.ok ? "good" : "bad"}`;
    badge.textContent = `${data.ok ? "batch-invariant" : "follows the batch"} on ${data.device}`;
    $("versions").textContent = `bi_inductor ${data.version} · torch ${data.torch} · plans ${data.hash.slice(0, 12)}`;
    const notices = [];
    const note = (text) => notices.push(el("div", { className: "notice" }, text));
    if (!data.compiles) note(`These are plans only: the backend does not compile for ${data.device} yet.`);
    graphs.forEach((g, i) => { if (g.graph_break) note(`Graph ${i} ends early at ${g.graph_break}: the code behind it runs stock eager kernels.`); });
    if (data.stopped) note(`Not all was captured: ${data.stopped}.`);
    const problems = graphs.flatMap((g, i) => g.nodes.filter((n) => n.verdict > 1).map((n) => [i, n]));
    for (const [i, n] of problems.slice(0, 3)) {
      notices.push(el("div", { className: "notice problem" }, mark(n.verdict), " ", el("b", {}, n.short), ` ${n.reason} `,
        el("a", { onclick: () => { state.graph = i; go(n.index); } }, n.place || n.name)));
    }
    if (problems.length > 3) notices.push(el("div", { className: "notice problem" }, el("a", { onclick: () => { state.off = new Set([0, 1]); state.view = "list"; state.module = ""; draw(); } }, `and ${many(problems.length - 3, "more problem")}`)));
    $("notices").replaceChildren(...notices);
    const select = $("graphs");
    select.hidden = graphs.length < 2;
    select.replaceChildren(...graphs.map((g, i) => el("option", { value: i }, `graph ${i}: ${many(g.nodes.length, "node")}`)));
    select.onchange = () => { state.graph = Number(select.value); state.module = ""; state.node = -1; reveal(""); draw(); };
    $("query").oninput = (event) => { state.query = event.target.value; if (state.query && state.view === "graph") state.view = "list"; draw(); };
    $("theme").onclick = theme;
  }
  function theme() {
    const dark = document.documentElement.dataset.theme === "dark" || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    save();
  }
  function bar() {
    const counts = graphs.length ? graphs[state.graph].root.counts : [0, 0, 0, 0, 0];
    $("graphs").value = state.graph;
    if ($("query").value !== state.query) $("query").value = state.query;
    $("chips").replaceChildren(...data.verdicts.map((verdict, v) => counts[v] === 0 && v > 1 ? null : el("button", {
      type: "button", className: "chip", "aria-pressed": String(!state.off.has(v)), title: `show or hide ${verdict} nodes`,
      onclick: () => { state.off.has(v) ? state.off.delete(v) : state.off.add(v); draw(); } }, mark(v), el("b", {}, String(counts[v])), verdict)).filter(Boolean));
    const kernels = graphs.some((g) => g.kernels.length);
    $("views").replaceChildren(...Object.entries(VIEWS).filter(([key]) => key !== "kernel" || kernels).map(([key, label]) =>
      el("button", { type: "button", role: "tab", "aria-selected": String(state.view === key), onclick: () => { state.view = key; draw(); } }, label)));
  }

  // ---- module tree
  function branches() {
    const rows = [];
    const walk = (at, depth) => {
      const inside = at.children.size > 0, open = state.open.has(at.path);
      const meter = el("span", { className: "meter" });
      at.counts.forEach((n, v) => { if (n) { const part = el("i", { className: `f${v}` }); part.style.width = `${Math.max((100 * n) / total(at.counts), v > 1 ? 18 : 0)}%`; meter.append(part); } });
      const row = el("div", { className: `branch${state.module === at.path ? " here" : ""}`, title: at.path || data.name,
        onclick: () => { state.module = at.path; state.open.add(at.path); draw(); } },
        el("span", { className: "twist", onclick: (event) => { event.stopPropagation(); open ? state.open.delete(at.path) : state.open.add(at.path); branches(); } }, inside ? (open ? "▾" : "▸") : ""),
        el("span", { className: "label" }, at === graphs[state.graph].root ? data.name : at.label), el("span", { className: "n" }, String(total(at.counts))), meter);
      row.style.paddingLeft = `${depth * 12}px`;
      rows.push(row);
      if (open) for (const child of at.children.values()) walk(child, depth + 1);
    };
    if (graphs.length) walk(graphs[state.graph].root, 0);
    $("tree").replaceChildren(...rows);
  }

  // ---- stage
  let scroller = null;
  function stage() {
    const at = $("stage");
    at.onscroll = null;
    at.replaceChildren();
    scroller = null;
    if (!graphs.length) { at.append(el("div", { className: "crumbs" }, "No graph was captured.")); return; }
    ({ graph: block, list, code, kernel })[state.view](at);
  }
  function list(at) {
    at.append(el("div", { className: "row list head" }, ...["", "op", "module", "plan or problem", "source"].map((t) => el("span", {}, t))));
    at.firstChild.style.position = "sticky";
    scroller = virtual(at, matching.length, 27, (i) => {
      const n = matching[i];
      return el("div", { className: `row list${n.index === state.node ? " here" : ""}`, onclick: () => pick(n.index) }, mark(n.verdict),
        el("span", { className: "op", title: n.op }, n.short), el("span", { className: "soft", title: n.module }, n.module), el("span", { title: n.said, className: n.verdict > 1 ? `v${n.verdict}` : "" }, n.said), el("span", { className: "soft", title: n.code }, n.place));
    }, 27);
    const here = matching.findIndex((n) => n.index === state.node);
    if (here >= 0) scroller.to(here);
  }
  function code(at) {
    const lines = matching.flatMap((n) => Array.from({ length: Math.max(n.after.length, 1) }, (_, i) => [n, i ? "" : n.before, n.after[i] || ""]));
    at.append(el("div", { className: "row code head" }, el("span"), el("span", {}, "before: ATen"), el("span", {}, "after: with the plan in the node")));
    at.firstChild.style.position = "sticky";
    scroller = virtual(at, lines.length, 27, (i) => {
      const [n, before, after] = lines[i];
      const same = before === after;
      return el("div", { className: `row code${n.index === state.node ? " here" : ""}`, onclick: () => pick(n.index) }, i === 0 || lines[i - 1][0] !== n ? mark(n.verdict) : el("span"),
        el("span", { title: before, className: same ? "soft" : "" }, before), el("span", { title: after, className: same ? "soft" : "v1" }, after));
    }, 27);
    const here = lines.findIndex(([n]) => n.index === state.node);
    if (here >= 0) scroller.to(here);
  }
  function kernel(at) {
    const lines = graphs[state.graph].kernels.join("\n").split("\n");
    const n = graphs[state.graph].nodes[state.node];
    const made = n ? n.after.map((line) => line.split(" ")[0]) : [];
    const ops = n ? n.after.filter((line) => line.includes("= bi_inductor.")).map((line) => line.split("= ")[1].split("(")[0]) : [];
    const named = (line) => made.some((name) => new RegExp(`\\b${name}\\b`).test(line));
    // code that does not name its nodes still calls their ops
    const hit = lines.some(named) ? named : (line) => ops.some((op) => line.includes(op));
    scroller = virtual(at, lines.length, 20, (i) => { const row = el("div", { className: `row text${hit(lines[i]) ? " hit" : ""}` }, lines[i]); row.style.right = "auto"; row.style.minWidth = "100%"; return row; });
    const first = lines.findIndex(hit);
    if (first >= 0) scroller.to(first);
  }

  // ---- one module as a block diagram: its own nodes, and its children as one box each
  const MOST = 400, W = 196, H = 40, GAP_X = 22, GAP_Y = 30;
  function items(at) {
    const graph = graphs[state.graph], mine = new Map(), order = [];
    const itemOf = (node) => {
      if (node.home === at) return `n${node.index}`;
      let home = node.home;
      while (home && home.parent !== at) home = home.parent;
      return home ? `m${home.path}` : null;
    };
    for (const node of graph.nodes) {
      const key = itemOf(node);
      if (key === null) continue;
      if (!mine.has(key)) { mine.set(key, { key, place: order.length, from: new Set(), node: key[0] === "n" ? node : null, module: key[0] === "m" ? find(key.slice(1)) : null }); order.push(mine.get(key)); }
      for (const i of node.inputs) {
        const source = typeof i === "number" ? itemOf(graph.nodes[i]) : null;
        if (source && source !== key && mine.has(source)) mine.get(key).from.add(source);
      }
    }
    return { order, mine };
  }
  function block(at) {
    const here = find(state.module) || graphs[state.graph].root;
    const { order, mine } = items(here);
    const path = here.path ? here.path.split(".") : [];
    at.append(el("div", { className: "crumbs" }, el("a", { onclick: () => { state.module = ""; draw(); } }, data.name), ...path.flatMap((part, i) => [" › ", el("a", { onclick: () => { state.module = path.slice(0, i + 1).join("."); draw(); } }, part)]),
      el("span", { className: "soft" }, `   ${many(total(here.counts), "node")}; double-click a module to open it`)));
    if (order.length > MOST) { at.append(el("div", { className: "crumbs" }, `${order.length} boxes at this level are more than a diagram can show; open a module on the left, or use the list.`)); return; }
    const layers = [];
    for (const item of order) {
      // an edge back to an earlier box, through a module that is entered twice, does not count
      const above = [...item.from].map((k) => mine.get(k)).filter((i) => i.place < item.place);
      item.layer = above.reduce((most, i) => Math.max(most, i.layer + 1), 0);
      item.pull = above.length ? above.reduce((sum, i) => sum + i.column, 0) / above.length : 0;
      const layer = (layers[item.layer] ||= []);
      item.column = layer.length;
      layer.push(item);
    }
    for (const layer of layers) layer.sort((a, b) => a.pull - b.pull).forEach((item, i) => { item.column = i; });
    const width = Math.max(...layers.map((l) => l.length), 1) * (W + GAP_X) + GAP_X;
    for (const layer of layers) layer.forEach((item, i) => { item.x = (width - layer.length * (W + GAP_X) + GAP_X) / 2 + i * (W + GAP_X); item.y = 16 + item.layer * (H + GAP_Y); });
    const drawing = svg("svg", { width, height: layers.length * (H + GAP_Y) + 20, role: "img", "aria-label": `diagram of ${here.path || data.name}` });
    const edges = svg("g"), boxes = svg("g");
    const chosen = state.node >= 0 ? `n${state.node}` : "";
    for (const item of order) for (const key of item.from) {
      const a = mine.get(key);
      const [x1, y1, x2, y2] = [a.x + W / 2, a.y + H, item.x + W / 2, item.y];
      const bend = Math.max((y2 - y1) / 2, 14);
      edges.append(svg("path", { class: `edge${chosen && (key === chosen || item.key === chosen) ? " lit" : ""}`, d: `M${x1} ${y1}C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2}` }));
    }
    const shown = new Set(matching.map((n) => n.index));
    for (const item of order) boxes.append(box(item, shown));
    drawing.append(edges, boxes);
    at.append(drawing);
    const focus = mine.get(chosen);
    at.scrollLeft = focus ? focus.x - at.clientWidth / 2 : (width - at.clientWidth) / 2;
    if (focus) at.scrollTop = focus.y - at.clientHeight / 2;
  }
  const cut = (text, n) => (text.length > n ? `${text.slice(0, n - 1)}…` : text);
  function box(item, shown) {
    const { node, module } = item;
    const worst = node ? node.verdict : module.counts.reduce((w, n, v) => (n && v > w ? v : w), 0);
    const faint = node ? !shown.has(node.index) : false;
    const group = svg("g", { class: `box${module ? " module" : ""}${node && node.index === state.node ? " here" : ""}${faint ? " faint" : ""}`, transform: `translate(${item.x},${item.y})` },
      svg("rect", { width: W, height: H, rx: module ? 10 : 5, class: `b${worst}` }),
      text(10, 17, module ? "▣" : MARKS[worst], `v${worst}`),
      text(26, 17, cut(node ? node.short : module.label, 24), ""),
      text(10, 32, cut(node ? (node.said || node.shape) : `${many(total(module.counts), "node")}, ${module.counts[1]} planned`, 32), "sub"));
    const title = svg("title");
    title.textContent = node ? `${node.op}\n${node.said}\n${node.place}` : module.path;
    group.append(title);
    group.addEventListener("click", () => (node ? pick(node.index) : summary(module)));
    if (module) group.addEventListener("dblclick", () => { state.module = module.path; reveal(`${module.path}.`); draw(); });
    return group;
  }
  function text(x, y, said, kind) { const t = svg("text", { x, y, class: kind }); t.textContent = said; return t; }

  // ---- details
  function pair(name, value) { return value === "" || value === null || value === undefined ? [] : [el("dt", {}, name), el("dd", {}, value)]; }
  function link(i) {
    if (typeof i === "string") return el("a", { title: "input of the graph" }, i);
    const n = graphs[state.graph].nodes[i];
    return el("a", { onclick: () => go(i) }, `${MARKS[n.verdict]} ${n.name} = ${n.short}`);
  }
  function detail() {
    const n = graphs.length ? graphs[state.graph].nodes[state.node] : null;
    if (!n) { overview(); return; }
    const changed = n.after.length !== 1 || n.after[0] !== n.before;
    const parts = [el("h2", {}, n.op), el("div", {}, mark(n.verdict), ` ${data.verdicts[n.verdict]}${n.backward ? ", backward" : ""}`)];
    if (n.reason) parts.push(el("div", { className: "say" }, el("p", {}, n.reason), n.remedy ? el("p", {}, el("b", {}, n.remedy)) : null));
    if (n.plan) parts.push(el("h3", {}, "Plan"), el("dl", {}, ...pair("template", n.template), ...n.plan.split(" ").flatMap((p) => pair(...p.split(/=(.*)/s).slice(0, 2))), ...pair("adds up", n.reduces.join(" × "))));
    else if (n.template) parts.push(el("h3", {}, "Template"), el("div", {}, n.template));
    parts.push(el("h3", {}, "Where"), el("dl", {}, ...pair("module", n.module), ...pair("source", n.file ? `${n.file}:${n.line}` : "")));
    if (n.code) parts.push(el("pre", {}, n.code));
    parts.push(el("h3", {}, "Result"), el("dl", {}, ...pair("type", `${n.dtype} ${n.shape}`), ...pair("batch", n.batch_dim === null ? "shared by all samples" : `dim ${n.batch_dim}`), ...pair("numbers depend on", n.depends_on.join(", "))));
    parts.push(el("h3", {}, "FX code"), el("pre", {}, ...(changed && n.after.length ? [el("div", { className: "del" }, `- ${n.before}`), ...n.after.map((l) => el("div", { className: "add" }, `+ ${l}`))] : [n.before])));
    if (n.inputs.length) parts.push(el("h3", {}, "Inputs"), el("div", { className: "links" }, ...n.inputs.map(link)));
    if (n.users.length) parts.push(el("h3", {}, "Used by"), el("div", { className: "links" }, ...n.users.slice(0, 30).map(link)));
    $("detail").replaceChildren(...parts);
    $("detail").scrollTop = 0;
  }
  function summary(module) {
    $("detail").replaceChildren(el("h2", {}, module.path), el("h3", {}, "Verdicts"), el("dl", {}, ...module.counts.flatMap((n, v) => (n ? pair(data.verdicts[v], String(n)) : []))),
      el("h3", {}, "Open"), el("button", { type: "button", onclick: () => { state.module = module.path; reveal(`${module.path}.`); draw(); } }, `open ${module.label}`));
  }
  function overview() {
    const g = graphs[state.graph];
    const keys = [["/", "search"], ["j k", "next, previous"], ["p", "next problem"], ["u", "up one module"], ["1 2 3", "graph, list, code"], ["t", "light or dark"], ["Esc", "clear"]];
    $("detail").replaceChildren(el("h2", {}, data.name),
      ...(g ? [el("h3", {}, "Inputs"), el("dl", {}, ...g.inputs.flatMap(([name, dtype, shape, at]) => pair(name, `${dtype} ${shape}${at === null ? "" : `, batch in dim ${at}`}`)))] : []),
      ...(g && g.symbols.length ? [el("h3", {}, "Symbolic sizes"), el("dl", {}, ...g.symbols.flatMap(([name, example, batch, source]) => pair(name, `${source}, ${example} in this call${batch ? "; the batch" : ""}`)))] : []),
      el("h3", {}, "Verdicts"), el("dl", {}, ...[["invariant", "computes each element from its own place, or moves data"], ["planned", "adds things up, in a fixed order"], ["unsupported", "the device has no lowering for it"], ["unknown", "no rule, so no promise"], ["coupled", "mixes samples by definition"]].flatMap(([k, v]) => pair(k, v))),
      el("h3", {}, "Keys"), el("div", { className: "keys" }, ...keys.flatMap(([k, v]) => [...k.split(" ").flatMap((one) => [el("kbd", {}, one), " "]), v, el("br")])));
  }

  // ---- moving around
  function pick(i) { state.node = i; save(); detail(); if (state.view === "graph") stage(); else if (state.view === "kernel") stage(); else if (scroller) { const at = $("stage").scrollTop; stage(); $("stage").scrollTop = at; step(0); } }
  function go(i) {
    const n = graphs[state.graph].nodes[i];
    state.node = i;
    if (state.view === "graph" || (state.module && n.module !== state.module && !n.module.startsWith(`${state.module}.`))) { state.module = n.module; reveal(n.module); }
    if (!matches(n)) { state.query = ""; state.off.delete(n.verdict); }
    draw();
  }
  const matches = (n) => !state.off.has(n.verdict) && state.query.toLowerCase().split(/\s+/).filter(Boolean).every((w) => n.hay.includes(w));
  function step(by) {
    if (!matching.length) return;
    const at = matching.findIndex((n) => n.index === state.node);
    const next = Math.min(Math.max(at + by, 0), matching.length - 1);
    if (by) go(matching[next].index);
    else if (at >= 0 && scroller && state.view === "list") scroller.to(at);
  }
  function problem() {
    const nodes = graphs[state.graph].nodes;
    for (let i = 1; i <= nodes.length; i++) { const n = nodes[(Math.max(state.node, -1) + i + nodes.length) % nodes.length]; if (n.verdict > 1) { go(n.index); return; } }
  }
  const KEYS = {
    "/": () => { $("query").focus(); $("query").select(); }, j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1), p: problem, t: theme,
    u: () => { state.module = state.module.split(".").slice(0, -1).join("."); draw(); }, 1: () => { state.view = "graph"; draw(); }, 2: () => { state.view = "list"; draw(); }, 3: () => { state.view = "code"; draw(); },
    Escape: () => { state.query = ""; state.node = -1; draw(); },
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !graphs.length) return;
    const typing = document.activeElement === $("query") || document.activeElement === $("graphs");
    if (typing && event.key === "Escape") { $("query").blur(); KEYS.Escape(); return; }
    if (typing && event.key === "Enter") { $("query").blur(); if (matching.length) go(matching[0].index); return; }
    if (typing || !KEYS[event.key]) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  addEventListener("resize", () => { if (scroller) scroller.again(); });
  addEventListener("hashchange", () => { load(); draw(); });

  function draw() { search(); bar(); branches(); stage(); detail(); save(); }
  header();
  load();
  draw();
  document.documentElement.dataset.ready = "yes";
})();
