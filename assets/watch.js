// The live parts of the page: the bar at the top, the queue, and the loss curves. One request asks
// for what is new in all of them, at the pace that the answer names, and none while the page is
// hidden. What the page has is read from the page itself, so whoever changed it, it comes right.
// After each answer the document has an event 'ft-live'.
window.ft ??= {};
window.ft.watch = (() => {
  const page = Math.random().toString(36).slice(2);
  const AFTER_FAILURE = 10; // seconds
  const REFRESH_AGAIN = 5000; // milliseconds
  const LOAD_AFTER = 4000; // milliseconds
  let timer;
  let isAsking = false;
  let isAskedFor = false;
  let refresh; // asks by an event for what is made of gradio's components
  let refreshed = ['', -Infinity];
  let library; // address of the file that draws figures; '' if it is not known

  const places = () => [...document.querySelectorAll('[data-live]')].filter((one) => one.offsetParent);
  const figure = () => {
    const found = document.querySelector('.ft-watch .js-plotly-plot');
    return window.Plotly && found?.offsetParent ? found : undefined;
  };

  const had = () => {
    const query = new URLSearchParams({ page });
    for (const { dataset } of places()) query.set(dataset.live, dataset.tag ?? '');
    if (query.has('queue')) {
      const { sweep = 'newest', shown = '' } = document.querySelector('[data-shown]')?.dataset ?? {};
      query.set('sweep', sweep);
      query.set('shown', shown);
      const drawn = figure();
      if (drawn) query.set('curve', window.ft.growing.tag(drawn));
    }
    return query;
  };

  // Makes a node like another one and keeps what is equal, so that little is painted and a button
  // keeps the focus.
  const become = (node, wanted) => {
    const isAlike = node.nodeName === wanted.nodeName && node.childNodes.length === wanted.childNodes.length;
    if (!isAlike) return node.replaceWith(wanted);
    if (node.nodeType === Node.TEXT_NODE) {
      if (node.data !== wanted.data) node.data = wanted.data;
      return;
    }
    for (const { name } of [...node.attributes]) if (!wanted.hasAttribute(name)) node.removeAttribute(name);
    for (const { name, value } of wanted.attributes) {
      if (node.getAttribute(name) !== value) node.setAttribute(name, value);
    }
    const pairs = [...wanted.childNodes].map((child, number) => [node.childNodes[number], child]);
    for (const [child, other] of pairs) become(child, other);
  };

  const take = (found, asked) => {
    const drawn = figure(); // before anything is changed: what is visible takes a layout
    for (const place of places()) {
      const [tag, html] = found.html[place.dataset.live] ?? [];
      if (tag === undefined) continue;
      const wanted = place.cloneNode();
      wanted.innerHTML = html;
      wanted.dataset.tag = tag;
      if (place.childNodes.length !== wanted.childNodes.length) place.replaceChildren();
      while (place.childNodes.length < wanted.childNodes.length) place.append('');
      become(place, wanted);
    }
    document.dispatchEvent(new Event('ft-live'));
    if (found.curve && drawn && window.ft.growing.tag(drawn) === asked.get('curve')) {
      window.ft.growing.grow(drawn, found.curve);
    }
    if (found.refresh && refresh) {
      const about = asked.get('shown');
      if (about === refreshed[0] && performance.now() - refreshed[1] < REFRESH_AGAIN) return;
      refreshed = [about, performance.now()];
      refresh();
    }
  };

  // What draws the curve takes the browser about a second to load. It would else be loaded when the
  // first loss is there, beside timed steps.
  const load = () => {
    if (library && !window.Plotly) import(new URL(library, location)).catch(() => {});
  };

  const now = async () => {
    clearTimeout(timer);
    if (document.hidden) return;
    isAskedFor = isAsking;
    if (isAsking) return;
    isAsking = true;
    let seconds = AFTER_FAILURE;
    try {
      const asked = had();
      const answer = await fetch(`watch?${asked}`, { signal: AbortSignal.timeout(60_000) });
      if (answer.ok) {
        const found = await answer.json();
        seconds = found.seconds;
        take(found, asked);
      }
    } catch (error) {
      if (!(error instanceof DOMException || error instanceof TypeError)) throw error;
    } finally {
      isAsking = false;
      timer = setTimeout(now, isAskedFor ? 0 : 1000 * seconds);
      isAskedFor = false;
    }
  };

  const launched = () => {
    now();
    load();
  };

  // `element` is in the tab of the queue; `callBack` asks for what is made of gradio's components;
  // `file` is what gradio draws figures with.
  const follow = (element, callBack, file) => {
    refresh = callBack;
    library = file;
    let wasShown = false;
    new ResizeObserver(([{ target }]) => {
      const isShown = target.offsetParent !== null;
      if (isShown && !wasShown) {
        now();
        setTimeout(load, LOAD_AFTER);
      }
      wasShown = isShown;
    }).observe(element.closest('.ft-watch'));
  };

  document.addEventListener('visibilitychange', now);
  window.addEventListener('pageshow', now);
  return { follow, launched, now };
})();
