// The address of the page names what is shown, as in `/?tab=compare&sweep=ID`. The open tab and the
// HTML in it say what that is (`data-address`); the server opens an address that was entered or gone
// back to.
window.ft ??= {};
window.ft.address = (() => {
  // Milliseconds that the server has to open an address, and to fill a tab, and until an answer is
  // drawn.
  const [PATIENCE, FILLING, DRAWING] = [20000, 2000, 100];
  let shown = null; // what the address names
  let target = null; // an address that is still being opened
  let first = ''; // the tab of an address without one
  let [opened, changed, stepped, pressed] = [0, 0, 0, 0]; // when; `stepped`: a change after a press
  let due = 0;
  let send; // sends an address to the server, and the tab that is shown already
  let asked = location.search; // the address that was opened last, not what it became since
  let chosen = null; // the tab that was pressed since the last address was sent
  const unseen = []; // [tab, what is to be called when it is shown for the first time]

  // Parameters of gradio, such as `__theme`, are no part of a view.
  const views = (query) => [...query].filter(([name]) => !name.startsWith('__'));
  const has = (query, other) => views(other).every(([name, value]) => query.get(name) === value);
  const same = (one, other) => has(one, other) && has(other, one);
  const now = () => new URLSearchParams(location.search);

  const look = () => {
    const panel = [...document.querySelectorAll('#tabs [role=tabpanel][id^="tab-"]')].find((one) => one.checkVisibility());
    if (!panel) return null;
    const query = new URLSearchParams([...now()].filter(([name]) => name.startsWith('__')));
    query.set('tab', panel.id.slice('tab-'.length));
    for (const named of panel.querySelectorAll('[data-address]')) {
      if (!named.closest('[role=tabpanel]').checkVisibility()) continue;
      for (const [name, value] of new URLSearchParams(named.dataset.address)) query.set(name, value);
    }
    return query;
  };

  const tell = (tab) => {
    for (const one of unseen.filter(([of]) => of === tab)) {
      unseen.splice(unseen.indexOf(one), 1);
      one[1]();
    }
  };

  const update = () => {
    due = 0;
    const seen = look();
    if (!seen || !shown) return;
    const url = `${location.pathname}?${seen}`;
    if (target) {
      const stays = views(seen).some(([name, value]) => !target.query.has(name) && target.before.get(name) === value);
      if ((stays || !has(seen, target.query)) && Date.now() < target.until) return;
      target = null;
      opened = Date.now();
      if (!same(now(), seen)) history.replaceState(null, '', url);
    } else if (!same(shown, seen) && !same(now(), seen)) {
      // What a tab is filled with once it is open, or another letter of a word, is no step of its own.
      const isUnasked = pressed < Math.max(opened, changed);
      const goesOn = seen.get('tab') === shown.get('tab') && (isUnasked || Date.now() - stepped < FILLING);
      if (goesOn) history.replaceState(null, '', url);
      else history.pushState(null, '', url);
      changed = Date.now();
      if (!isUnasked) stepped = changed;
    }
    if (seen.get('tab') !== shown.get('tab')) window.ft.kept.set('tab', seen.get('tab'));
    shown = seen;
    tell(seen.get('tab'));
  };

  const wait = (query) => {
    target = { query, before: shown, until: Date.now() + PATIENCE };
    setTimeout(update, PATIENCE + 100);
  };

  const open = () => {
    const query = now();
    asked = location.search;
    chosen = null;
    // What stands behind '#', as the prompt of a copied link, is opened once and stays in no history.
    const once = new URLSearchParams(location.hash.slice(1));
    if (location.hash) history.replaceState(null, '', `${location.pathname}${location.search}`);
    if (!query.has('tab')) query.set('tab', first);
    if (document.getElementById(`tab-${query.get('tab')}-button`)) wait(query);
    send(`${new URLSearchParams([...query, ...once])}`, look().get('tab'));
  };

  // Starts when the tabs are there; `sender` sends an address to the server.
  const begin = (sender) => {
    shown = look();
    if (!shown) return void setTimeout(begin, 20, sender); // the tabs are still being loaded
    send = sender;
    first = document.querySelector('#tabs [role=tabpanel][id^="tab-"]').id.slice('tab-'.length);
    const { button, tab, shown: seen } = window.ft.opening;
    if (chosen && chosen !== (now().get('tab') ?? first)) {
      shown = now(); // a tab was pressed before this: it stays, and Back leads to the address
      update();
    } else if (now().has('tab')) open();
    else if (button(tab()) && tab() !== first) {
      first = tab();
      wait(new URLSearchParams({ tab: first }));
      button(first).click();
    }
    seen();
    if (!target || target.query.get('tab') === shown.get('tab')) tell(shown.get('tab'));
    new MutationObserver(() => {
      due ||= setTimeout(update, 50);
    }).observe(document.getElementById('tabs'), {
      subtree: true, childList: true, attributes: true, attributeFilter: ['data-address', 'aria-selected'],
    });
    window.addEventListener('popstate', open);
    // A link to another view opens it without loading the page anew.
    document.addEventListener('click', (event) => {
      const link = event.target.closest?.('a[href^="?tab="]');
      if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      history.pushState(null, '', link.getAttribute('href'));
      open();
    });
    // Whoever does something else meanwhile waits no longer.
    for (const press of ['pointerdown', 'keydown']) window.addEventListener(press, () => {
      if (target && look()?.get('tab') === target.query.get('tab')) {
        target.until = 0;
        update(); // what is shown takes the place of the address, so that Back leads past it
      }
      target = null;
      pressed = Date.now();
      due ||= setTimeout(update, 50);
    }, true);
  };

  // The server has opened an address. A tab that was pressed meanwhile is shown again.
  const answered = () => setTimeout(() => {
    if (chosen && chosen !== look()?.get('tab')) window.ft.opening.button(chosen).click();
  }, DRAWING);

  document.addEventListener('click', ({ target: pressedOn }) => {
    const id = pressedOn.closest?.('#tabs [role=tab][id^="tab-"]')?.id;
    if (id) chosen = id.slice('tab-'.length, -'-button'.length);
  }, true);

  // Calls back once the tab around the element is shown, not while another one is to be opened.
  const whenShown = (element, callBack) => {
    const tab = element.closest('[role=tabpanel][id^="tab-"]').id.slice('tab-'.length);
    const expected = now().get('tab') ?? window.ft.opening.tab() ?? tab;
    if ((shown && !target ? shown.get('tab') : expected) === tab) callBack();
    else unseen.push([tab, callBack]);
  };

  // The value that the HTML inside of an element names, as the run of the opened panel; or "".
  const named = (inside, name) => {
    const found = document.querySelector(`${inside} [data-address]`);
    return new URLSearchParams(found?.dataset.address).get(name) ?? '';
  };

  // Copies the address of the view, and says so on the button. `once` stands behind '#': it is sent
  // to no server.
  const copy = async (button, once = {}) => {
    const behind = `${new URLSearchParams(once)}`;
    const link = `${location.origin}${location.pathname}?${new URLSearchParams(views(look()))}${behind && `#${behind}`}`;
    try {
      await navigator.clipboard.writeText(link);
    } catch {
      prompt('The browser does not let the page copy it. The link:', link); // as without https
    }
    const words = button.textContent;
    if (words === 'Copied') return;
    button.textContent = 'Copied';
    setTimeout(() => (button.textContent = words), 4000);
  };

  return { answered, begin, asked: () => asked, copy, named, whenShown };
})();
