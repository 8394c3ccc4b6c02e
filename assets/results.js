// The Results tab: ticks, sorting, and which run is opened. The browser holds the ticks, since a
// redrawn table keeps its nodes and would leave a tick at the place of another run.
window.ftRuns = (() => {
  const opened = () => window.ft.address.named('#run-top', 'run');
  const mark = () => {
    for (const row of document.querySelectorAll('#runs tr[data-run]')) {
      const on = row.dataset.run === opened();
      row.classList.toggle('open', on);
      row.querySelector('[data-open]')?.toggleAttribute('aria-current', on);
    }
  };

  // The table: sends `input` {on: ids}, `submit` {sort: key}, {more: true} or
  // {fold: origin}, `select` {run: id}.
  function table(element, trigger, watch) {
    const ticked = new Set();
    const idsOf = (box) => box.value.split(' ');
    const boxes = () => [...element.querySelectorAll('tbody input[type=checkbox]')];
    const send = () => trigger('input', { on: [...ticked] });
    const draw = () => {
      const all = boxes();
      for (const box of all) box.checked = idsOf(box).every((id) => ticked.has(id));
      const on = all.filter((box) => box.checked).length;
      for (const box of element.querySelectorAll('[data-all]')) {
        box.checked = on > 0 && on === all.length;
        box.indeterminate = on > 0 && on < all.length;
      }
      mark();
    };
    element.addEventListener('change', ({ target }) => {
      if (target.matches('[data-sort-by]')) return trigger('submit', { sort: target.value });
      if (!target.matches('input[type=checkbox]')) return;
      const { checked } = target;
      for (const box of 'all' in target.dataset ? boxes() : [target]) {
        for (const id of idsOf(box)) checked ? ticked.add(id) : ticked.delete(id);
      }
      draw();
      send();
    });
    element.addEventListener('click', ({ target }) => {
      const sort = target.closest('[data-sort]');
      if (sort) return trigger('submit', { sort: sort.dataset.sort });
      const fold = target.closest('[data-fold]');
      if (fold) return trigger('submit', { fold: fold.dataset.fold });
      if (target.closest('[data-more]')) return trigger('submit', { more: true });
      const opener = target.closest('[data-open]');
      const row = target.closest('tr[data-run]');
      const elsewhere = target.closest('input, label, a, button, .box');
      if (opener) trigger('select', { run: opener.dataset.open });
      else if (row && !elsewhere && getSelection().isCollapsed) trigger('select', { run: row.dataset.run });
    });
    watch('value', () => {
      const there = new Set(boxes().flatMap(idsOf));
      const before = ticked.size;
      for (const id of [...ticked]) if (!there.has(id)) ticked.delete(id);
      draw();
      if (ticked.size !== before) send(); // what is not to be seen is never acted on
    });
    draw();
  }

  // Groups of tick boxes: sends `input` {on: {name: [values]}}.
  function boxes(element, trigger, watch) {
    const ticked = new Map();
    const all = () => [...element.querySelectorAll('input[type=checkbox]')];
    const keyOf = (box) => `${box.name}=${box.value}`;
    let version;
    const draw = () => {
      const now = element.querySelector('[data-set]')?.dataset.set;
      if (now !== version) {
        version = now;
        ticked.clear();
        for (const box of all()) ticked.set(keyOf(box), box.hasAttribute('checked'));
      }
      for (const box of all()) box.checked = ticked.get(keyOf(box)) ?? box.hasAttribute('checked');
    };
    element.addEventListener('change', ({ target }) => {
      ticked.set(keyOf(target), target.checked);
      const on = {};
      for (const box of all()) if (box.checked) (on[box.name] ??= []).push(box.value);
      trigger('input', { on });
    });
    watch('value', draw);
    draw();
  }

  // The opened run: its row is marked, its title takes the focus. Gradio makes a panel that was
  // closed anew, so what was shown last is kept here.
  let last = '';
  function panel(element, watch) {
    const reach = (tries) => {
      const title = element.querySelector('h3');
      if (!title?.offsetParent) return tries && setTimeout(reach, 40, tries - 1);
      element.closest('.ft-run')?.scrollIntoView({ block: 'nearest' });
      title.focus({ preventScroll: true });
    };
    const draw = () => {
      const now = opened();
      mark();
      if (now && now !== last) reach(25);
      if (now) last = now;
    };
    watch('value', draw);
    draw();
  }
  function close() {
    const back = document.querySelector(`#runs [data-open="${CSS.escape(last)}"]`);
    last = '';
    setTimeout(() => {
      mark();
      back?.focus();
    }, 150);
  }

  return { table, boxes, panel, close };
})();

// The focus goes back to the row as its run is closed.
document.addEventListener('click', (event) => {
  if (event.target.closest('.ft-close')) window.ftRuns.close();
});

// Escape answers a question with no.
document.addEventListener('keydown', (event) => {
  const no = document.getElementById('results-keep');
  if (event.key === 'Escape' && no?.offsetParent) no.click();
});
