// The table of methods on Experiment. The browser holds ticks and settings; the server is told.
window.ftMethods = (() => {
  const root = () => document.querySelector('.pick');
  const boxes = () => [...root().querySelectorAll('input[type=checkbox]')];
  const own = () => [...root().querySelectorAll('[data-name]')];

  // What is ticked, and what those are set to. `at`: an answer to an older one is passed over.
  function now() {
    const on = boxes().filter((box) => box.checked && !box.disabled).map((box) => box.value);
    const set = own().filter((field) => on.includes(field.dataset.name.split('.')[0]));
    return {
      at: performance.now(),
      on,
      settings: Object.fromEntries(set.map((field) => [field.dataset.name, field.value])),
    };
  }

  // What follows from ticks and settings in the table itself.
  function mark() {
    for (const family of root().querySelectorAll('.family')) {
      const count = family.querySelectorAll('input:checked').length;
      family.querySelector('[data-on]').textContent = count ? `, ${count} ticked` : '';
    }
    for (const body of root().querySelectorAll('tbody')) {
      const changed = [...body.querySelectorAll('[data-name]')]
        .filter((field) => field.value.trim() !== field.dataset.default)
        .map((field) => `${field.dataset.name.split('.')[1]}=${field.value.trim()}`);
      body.querySelector('[data-changed]').textContent = changed.join(' ');
    }
  }

  // Counts, learning rates and reasons, as the server last said them.
  function fill() {
    const said = document.getElementById('method-facts')?.dataset.facts;
    if (!said || !root()) return;
    price();
    const { counts, reasons, reach, rates, own } = JSON.parse(said);
    for (const body of root().querySelectorAll('tbody')) {
      const { method } = body.dataset;
      body.querySelector('[data-count]').textContent = counts[method] ?? '–';
      body.querySelector('[data-rate]').textContent = rates[method] ?? '–';
      const field = body.querySelector(`[data-name="${method}.learning_rate"]`);
      field.placeholder = own[method] ?? '';
      document.getElementById(field.getAttribute('aria-describedby')).textContent =
        `Empty: the sweep's, else ${own[method] || 'its own for the size of the model'}.`;
      if (body.querySelector('input').disabled) continue;
      body.querySelector('.why:not([data-short], [data-reach])').textContent = reasons[method] ?? '';
      body.querySelector('[data-reach]').textContent = reach[method] ?? '';
    }
  }

  // What each ticked method will take, as far as it is predicted; `kinds` are those of chips.
  function price() {
    const said = document.getElementById('method-costs')?.dataset.costs;
    const costs = said ? JSON.parse(said) : {};
    const { methods = {}, most = '', full = '' } = costs;
    if (said !== priced.said) priced = { said, costs, at: Date.now() };
    const kinds = { fits: 'ok', tight: 'warn', 'does not fit': 'bad' };
    for (const body of root()?.querySelectorAll('tbody') ?? []) {
      const on = body.querySelector('input').checked;
      const { peak = '–', time: takes = '–', file = '–', verdict = '', why = '', how_long = '' } =
        (on && methods[body.dataset.method]) || {};
      const fit = body.querySelector('[data-fit]');
      for (const [name, text] of Object.entries({ peak, time: takes, file })) {
        const cell = body.querySelector(`[data-${name}]`);
        cell.textContent = text;
        cell.classList.toggle('pred', /\d/.test(text));
      }
      fit.replaceChildren();
      if (verdict) {
        const chip = document.createElement('span');
        chip.className = `chip ${kinds[verdict] ?? 'mute'}`;
        chip.textContent = verdict;
        fit.append(chip);
      }
      body.querySelector('[data-short]').textContent =
        verdict === 'does not fit' ? 'It needs more memory than is free on this device.' : '';
      for (const cell of [fit, body.querySelector('[data-peak]')]) cell.title = why;
      body.querySelector('[data-time]').title = how_long;
      body.querySelector('[data-peak]').dataset.takes = /\d/.test(takes) ? `≈ ${takes}` : '';
    }
    const sum = document.querySelector('#launch [data-most]');
    if (!sum) return;
    sum.textContent = most;
    sum.hidden = !most;
    sayEnd();
    const lacks = document.querySelector('#launch .lacks');
    if (!lacks) return;
    lacks.firstElementChild.textContent = full || lacks.dataset.words;
    lacks.lastElementChild.hidden = full !== '';
  }

  // The costs as they were said last, and when.
  let priced = { said: undefined, costs: {}, at: 0 };
  let minute = 0;

  // How long the sweep takes, and when it is done if it is launched now: after the runs that are
  // ahead of it. Said again each minute, because later is another time of the clock.
  function sayEnd() {
    clearTimeout(minute);
    const end = document.querySelector('#launch [data-time]');
    if (!end) return;
    const { time = '', seconds = 0, queue = '', ahead = 0, unknown = '' } = priced.costs;
    const free = Math.max(Date.now(), priced.at + 1000 * ahead);
    const done = new Date(free + 1000 * seconds);
    const clock = { hour: '2-digit', minute: '2-digit', hour12: false };
    const day = done.toDateString() === new Date().toDateString() ? {} : { weekday: 'short', day: 'numeric' };
    const at = done.toLocaleString('en-GB', { ...day, ...clock });
    const after = ahead ? ` after ${queue} of other runs` : '';
    const words = ahead === null ? `${time} after the other runs` : `${time}${after}, done at ${at}`;
    end.textContent = time ? words : unknown && 'time not known yet';
    end.title = time ? '' : unknown;
    end.classList.toggle('pred', time !== '');
    end.hidden = !end.textContent;
    if (time && !document.hidden) minute = setTimeout(sayEnd, 60_050 - (Date.now() % 60_000));
  }

  // Asks for the costs again when a run has begun or ended, or the time of a queued one is known: an
  // end frees the device, may have measured its speed, and narrows what is predicted. Asks nothing
  // while the bar is not seen.
  let asked;
  let ask = () => {};
  function renew() {
    const queued = document.querySelector('[data-queued]')?.dataset.queued;
    const isSeen = !document.hidden && document.getElementById('launch')?.checkVisibility();
    if (!isSeen || !queued || !priced.said || queued === asked) return;
    asked = queued;
    if (queued !== priced.costs.queued) ask();
  }

  function follow(tell) {
    ask = tell;
    const again = () => {
      renew();
      sayEnd();
    };
    document.addEventListener('visibilitychange', again);
    document.addEventListener('ft-live', renew);
    const bar = document.getElementById('launch');
    if (bar) new IntersectionObserver(again).observe(bar);
  }

  function find(words) {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const body of root().querySelectorAll('tbody')) {
      const text = body.querySelector('tr').textContent.toLowerCase();
      body.hidden = !wanted.every((word) => text.includes(word));
      shown += !body.hidden;
    }
    for (const family of root().querySelectorAll('.family')) {
      family.hidden = !family.querySelector('tbody:not([hidden])');
      family.open = wanted.length ? !family.hidden : family.querySelector('input:checked') !== null;
    }
    const start = root().querySelector('.start');
    start.hidden = start.nextElementSibling.hidden =
      !start.nextElementSibling.querySelector('tbody:not([hidden])');
    root().querySelector('.none').hidden = shown > 0;
  }

  function tick(which) {
    for (const box of boxes()) {
      box.checked = !box.disabled && (which === 'all' || (which === 'core' && 'core' in box.dataset));
    }
  }

  // Ticks one method more.
  function add(method) {
    const box = boxes().find((one) => one.value === method && !one.disabled);
    if (box) box.checked = true;
    send();
  }

  // Puts settings into their fields, as if they had been typed.
  function set(values) {
    for (const [name, value] of Object.entries(values)) {
      const field = root()?.querySelector(`[data-name="${name}"]`);
      if (field) field.value = value;
    }
    send();
  }

  let send = () => {};

  // `tell` sends what is chosen; `redrawn` calls back when the server has drawn the table anew.
  function table(element, tell, redrawn) {
    let waiting = 0;
    send = () => {
      clearTimeout(waiting);
      mark();
      tell(now());
    };
    element.addEventListener('change', ({ target }) => {
      if (!target.matches('[data-find]')) send();
    });
    element.addEventListener('input', ({ target }) => {
      if (target.matches('[data-find]')) find(target.value);
      if (!target.matches('input[data-name]')) return;
      clearTimeout(waiting);
      waiting = setTimeout(send, 300);
    });
    element.addEventListener('click', ({ target }) => {
      const several = target.closest('[data-tick]');
      if (several) {
        tick(several.dataset.tick);
        send();
      }
      const button = target.closest('button[aria-expanded]');
      if (button) {
        const fields = document.getElementById(button.getAttribute('aria-controls'));
        fields.hidden = !fields.hidden;
        button.setAttribute('aria-expanded', String(!fields.hidden));
      }
    });
    redrawn(() => {
      // Whatever somebody touched keeps its own state; the drawing says what it is now.
      for (const box of boxes()) box.checked = box.hasAttribute('checked');
      for (const field of own()) {
        const chosen = field.querySelector?.('option[selected]');
        field.value = chosen ? chosen.value : (field.getAttribute('value') ?? field.value);
      }
      root().querySelector('[data-find]').value = '';
      find('');
      fill();
      send(); // after whatever was on its way when it was drawn
    });
    fill();
    // A tick made before the page was ready would be lost otherwise.
    window.ft.address.whenShown(element, send);
  }

  return { table, now, add, set, fill, price, follow };
})();
