// Where a page without an address opens: on Compare with the tour until this browser has launched
// something, later on the tab that it showed last. See address.js, which opens it.
window.ft ??= {};
window.ft.opening = (() => {
  const { kept } = window.ft; // kept.js comes first: scripts are read in the order of their names
  const root = document.documentElement;
  const NEW = 'compare';
  const WAIT = 5000; // milliseconds until the first tab is shown if no other one can be opened

  // The stylesheet shows the step that `data-tour` names.
  const tour = (step) => {
    if (step) root.dataset.tour = step;
    else delete root.dataset.tour;
  };

  const button = (id) => document.getElementById(`tab-${id}-button`);
  const tab = () => (kept.get('launched') ? kept.get('tab') : NEW);

  const launched = () => {
    kept.set('launched', true);
    tour(0);
  };

  // The tour goes to a step, to the tab `experiment`, or is closed, by its buttons and by the link
  // below the figures.
  document.addEventListener('click', ({ target }) => {
    const to = target.closest('[data-tour-to]')?.dataset.tourTo;
    if (to === 'experiment') {
      button(to).click();
      button(to).focus();
    } else if (to === 'closed') {
      kept.set('tour', to);
      tour(0);
      button(NEW).focus();
    } else if (to) {
      tour(to);
      document.querySelector(`.tour [data-step="${to}"] h2`).focus();
    }
  });

  if (!kept.get('launched') && kept.get('tour') !== 'closed') tour(1);
  // Until begin() of address.js: the first tab is not to be seen before another one.
  const shown = () => root.classList.remove('ft-opening');
  if (!new URLSearchParams(location.search).has('tab')) {
    root.classList.add('ft-opening');
    setTimeout(shown, WAIT);
  }
  return { button, tab, launched, shown };
})();
