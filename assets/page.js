// What the page does without the server: light and dark, and figures that follow their width.
window.ft = {
  fit() {
    if (!window.Plotly) return;
    for (const figure of document.querySelectorAll('.js-plotly-plot')) {
      if (figure.offsetParent) Plotly.Plots.resize(figure);
    }
  },
  theme(dark) {
    document.body.classList.toggle('dark', dark);
    localStorage.setItem('ftlab-theme', dark ? 'dark' : 'light');
  },
  readyToVote(blind) {
    // A key is a vote only while no field takes it.
    if (blind) document.activeElement?.blur();
  },
};

document.addEventListener('click', (event) => {
  if (event.target.closest('[data-theme-toggle]')) {
    window.ft.theme(!document.body.classList.contains('dark'));
  }
});

// Blind vote: 1 to 6 for a pane, 0 for no difference.
document.addEventListener('keydown', (event) => {
  const typing = event.target.closest('input, textarea, select, [contenteditable]');
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !/^[0-6]$/.test(event.key)) return;
  const button = document.getElementById(`pg-vote-${event.key}`);
  if (button?.offsetParent) button.click();
});

// A figure drawn while hidden, or in a column that changed its width, is drawn anew at its width.
(() => {
  const seen = new WeakSet();
  const watch = new ResizeObserver((entries) => {
    for (const { contentRect, target } of entries) {
      if (contentRect.width > 0 && window.Plotly && target.querySelector('.main-svg')) {
        Plotly.Plots.resize(target);
      }
    }
  });
  new MutationObserver(() => {
    for (const figure of document.querySelectorAll('.js-plotly-plot')) {
      if (!seen.has(figure)) {
        seen.add(figure);
        watch.observe(figure);
      }
    }
  }).observe(document, { childList: true, subtree: true });
})();
