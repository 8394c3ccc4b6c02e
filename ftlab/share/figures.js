// Draws the figures of a report. Their data lie beside their places as JSON, which no browser runs.
'use strict';
for (const source of document.querySelectorAll('.fig > script')) {
  const place = source.previousElementSibling;
  const { data, layout } = JSON.parse(source.textContent);
  place.textContent = '';
  // On paper a figure is scaled as a picture: it was drawn for the width of the window.
  const scalable = () => {
    for (const svg of place.querySelectorAll('.main-svg')) {
      svg.setAttribute('viewBox', `0 0 ${svg.getAttribute('width')} ${svg.getAttribute('height')}`);
    }
  };
  const config = {
    responsive: true,
    displaylogo: false,
    toImageButtonOptions: { filename: place.dataset.name, scale: 2 },
  };
  Plotly.newPlot(place, data, layout, config).then(() => {
    scalable();
    place.on('plotly_afterplot', scalable);
  });
}
