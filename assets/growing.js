// A figure of curves that grows by some points. Plotly draws a whole figure anew for that, which was
// most of what a running sweep cost the browser. So the points are added to the drawn lines, and
// the labels at their ends moved. Plotly draws the figure when that is not enough, as when a point
// lies outside of the axes, and as soon as the pointer enters it.
window.ft ??= {};
window.ft.growing = (() => {
  const behind = new WeakSet(); // figures with points that plotly has not drawn
  const heard = new WeakSet();

  const tag = (figure) => figure.layout?.meta?.tag ?? '';

  const draw = (figure) => {
    behind.delete(figure);
    return Plotly.react(figure, figure.data, figure.layout);
  };

  const catchUp = (figure) => {
    if (behind.has(figure)) draw(figure);
  };

  // As gradio draws a figure.
  const drawWhole = (figure, json) => {
    const { data, layout, config = {} } = JSON.parse(json);
    layout.autosize = true;
    layout.margin = { ...layout.margin, autoexpand: true };
    behind.delete(figure);
    return Plotly.react(figure, data, layout, { ...config, responsive: true });
  };

  const takeData = (figure, growth) => {
    for (const trace of growth.traces) {
      const old = figure.data[trace.number];
      for (const key of ['x', 'y', 'text']) {
        if (trace[key]) old[key] = [...old[key].slice(0, trace.from), ...trace[key]];
      }
    }
    const { layout } = figure;
    for (const [key, value] of Object.entries(growth.layout)) {
      layout[key] = Array.isArray(value) ? value : { ...layout[key], ...value };
    }
    layout.meta = { tag: growth.tag };
  };

  const isWithin = (values, [low, high]) => values.every((value) => value !== null && low <= value && value <= high);

  // The drawn line of each trace that grows by points within the axes alone; or undefined.
  const linesOf = (figure, { traces }) => {
    const { _fullData: full, _fullLayout: axes } = figure;
    const lines = traces.map(({ number, from, x, y, text }) => {
      const { x: oldX, y: oldY, mode } = figure.data[number];
      const isAppended = from === oldX.length && from > 0 && oldY.at(-1) !== null;
      if (!isAppended || text || mode !== 'lines') return undefined;
      if (!isWithin(x, axes.xaxis.range) || !isWithin(y, axes.yaxis.range)) return undefined;
      return [...figure.querySelectorAll(`.trace${full[number].uid} path.js-line`)].at(-1);
    });
    return lines.every((line) => line) ? lines : undefined;
  };

  // The drawn labels at the ends of the lines, if there are as many, in the same room; or undefined.
  const labelsOf = (figure, { layout: { annotations, margin, ...rest } }) => {
    if (Object.keys(rest).some((key) => key !== 'yaxis')) return undefined;
    if (margin && margin.r !== figure.layout.margin.r) return undefined;
    if (!annotations) return [];
    const labels = annotations.map((_, number) => figure.querySelector(`.annotation[data-index="${number}"]`));
    return annotations.length === figure.layout.annotations.length && labels.every((label) => label) ? labels : undefined;
  };

  const lastText = (node) => {
    const texts = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
    return texts.lastChild();
  };

  const extend = (figure, lines, labels, { traces, layout }) => {
    const { xaxis, yaxis, annotations } = figure._fullLayout;
    traces.forEach(({ x, y }, number) => {
      const more = x.map((at, place) => `L${xaxis.c2p(at).toFixed(2)},${yaxis.c2p(y[place]).toFixed(2)}`);
      lines[number].setAttribute('d', lines[number].getAttribute('d') + more.join(''));
    });
    labels.forEach((label, number) => {
      const { text, y } = layout.annotations[number];
      const words = document.createElement('template');
      words.innerHTML = text;
      lastText(label).data = lastText(words.content).data;
      label.style.translate = `0 ${yaxis.c2p(y) - yaxis.c2p(annotations[number].y)}px`;
    });
  };

  const grow = (figure, growth) => {
    if (growth.figure) return drawWhole(figure, growth.figure);
    const lines = linesOf(figure, growth);
    const labels = lines && labelsOf(figure, growth);
    takeData(figure, growth);
    if (!labels || figure.matches(':hover')) return draw(figure);
    extend(figure, lines, labels, growth);
    behind.add(figure);
    if (!heard.has(figure)) {
      heard.add(figure);
      figure.on('plotly_afterplot', () => catchUp(figure)); // it was resized, for example
      figure.addEventListener('pointerenter', () => catchUp(figure));
    }
  };

  return { grow, tag };
})();
