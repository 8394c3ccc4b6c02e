// Figures: they follow their width, a click on a point opens its run, and an image can be kept.
window.ft ??= {};

// The box of what plotly drew: its own `layout` loses width and height at the first resize.
window.ft.drawn = (figure) => figure.querySelector('.main-svg')?.getBoundingClientRect();

// Draws a figure anew if it is not as wide as the room that it has.
window.ft.refit = (figure) => {
  const drawn = window.ft.drawn(figure)?.width;
  const room = figure.getBoundingClientRect().width;
  if (window.Plotly && drawn && room && Math.abs(drawn - room) > 1) Plotly.Plots.resize(figure);
};

window.ft.fit = () => document.querySelectorAll('.js-plotly-plot').forEach(window.ft.refit);

// A figure drawn while hidden, or in a column that changed its width, is drawn anew at its width.
(() => {
  const seen = new WeakSet();
  const watch = new ResizeObserver((entries) => entries.forEach((entry) => window.ft.refit(entry.target)));
  new MutationObserver(() => {
    for (const figure of document.querySelectorAll('.js-plotly-plot')) {
      if (!seen.has(figure)) {
        seen.add(figure);
        watch.observe(figure);
      }
    }
  }).observe(document, { childList: true, subtree: true });
})();

// A click on a point, bar or line of a figure in `.ft-open` opens its run: `customdata` holds the
// id, or the ids of all seeds with the first one to be opened; a line has them in its `meta`.
window.ft.openRun = (event) => {
  const point = event.points[0];
  const runs = String(point?.customdata ?? point?.data?.meta?.runs ?? '');
  const opener = document.querySelector('.ft-opener');
  if (runs && opener) {
    const detail = runs.split(' ')[0];
    opener.dispatchEvent(new CustomEvent('ft-open', { detail, bubbles: true }));
  }
};

// Bound when the pointer enters, since gradio makes figures anew; never twice.
document.addEventListener('pointerover', (event) => {
  const figure = event.target.closest?.('.ft-open .js-plotly-plot');
  if (!figure?.on) return;
  figure.removeListener('plotly_click', window.ft.openRun);
  figure.on('plotly_click', window.ft.openRun);
});

// Images of the size of a slide: the light template on white, the title drawn in. They are drawn in a
// font that every machine has, since an image cannot take the page's own with it.
window.ft.imageOf = (figure, title) => {
  const [width, least] = [960, 540];
  const family = 'Arial, Helvetica, sans-serif';
  const size = 20;
  const lines = window.ft.wrap(title, width - 40, `bold ${size}px ${family}`);
  const layout = structuredClone(figure.layout);
  const top = lines.length * 1.3 * size + 20 + window.ft.sayUnlike(layout, width - 40, family);
  const height = Math.max(window.ft.drawn(figure).height + top, least);
  const margin = { l: 8, r: 12, t: 8, b: 8, ...layout.margin };
  Object.assign(layout, {
    width,
    height,
    autosize: false,
    paper_bgcolor: '#fff',
    plot_bgcolor: '#fff',
    font: { ...layout.font, family },
    title: {
      text: lines.map(window.ft.asText).join('<br>'),
      font: { size, weight: 'bold', color: '#1b2129' },
      x: 0, xref: 'container', xanchor: 'left', pad: { l: 20 },
      y: 1 - 32 / height, yref: 'container', yanchor: 'middle', // of the first line
    },
    margin: { ...margin, t: margin.t + top, l: margin.l + 12, r: margin.r + 12, b: margin.b + 12 },
  });
  return { data: figure.data, layout, config: {} };
};

// An image is wide enough to name all that differs between its runs, with the values. Gives the
// pixels that this takes more than the short words of the page.
window.ft.sayUnlike = (layout, room, family) => {
  const note = layout.annotations?.find(({ name }) => name === 'unlike');
  if (!note) return 0;
  const lines = window.ft.wrap(note.hovertext, room, `${note.font.size}px ${family}`);
  const more = Math.max(0, lines.length - note.text.split('<br>').length);
  note.text = lines.join('<br>');
  return more * 1.3 * note.font.size;
};

window.ft.asText = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

window.ft.wrap = (text, room, font) => {
  const pen = document.createElement('canvas').getContext('2d');
  pen.font = font;
  const lines = [''];
  for (const word of text.split(/\s+/)) {
    const longer = lines.at(-1) ? `${lines.at(-1)} ${word}` : word;
    if (pen.measureText(longer).width > room && lines.at(-1)) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines;
};

document.addEventListener('click', async (event) => {
  const button = event.target.closest?.('[data-image]');
  const figure = button?.closest('.ft-picture')?.querySelector('.js-plotly-plot');
  if (!figure || !window.Plotly) return;
  const { image: format, file, title } = button.dataset;
  button.disabled = true;
  try {
    const image = window.ft.imageOf(figure, title);
    const { width, height } = image.layout;
    const url = await Plotly.toImage(image, { format, width, height, scale: format === 'png' ? 2 : 1 });
    const sweep = window.ft.address.named('.ft-compare', 'sweep');
    const download = `${[file, sweep].filter(Boolean).join('-')}.${format}`;
    const link = Object.assign(document.createElement('a'), { href: url, download });
    link.click();
  } finally {
    button.disabled = false;
    button.focus();
  }
});
