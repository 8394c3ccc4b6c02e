// What this browser remembers from one visit to the next: a JSON value per name, under `ftlab.NAME`
// in localStorage. In a browser that keeps nothing, everything is as at the first visit.
window.ft ??= {};
window.ft.kept = {
  get(name) {
    try {
      return JSON.parse(localStorage.getItem(`ftlab.${name}`));
    } catch {
      return null;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(`ftlab.${name}`, JSON.stringify(value));
    } catch {
      // Private windows and full stores: the next visit starts anew.
    }
  },
  remove(name) {
    try {
      localStorage.removeItem(`ftlab.${name}`);
    } catch {
      // as above
    }
  },
  // A value as it is stored, cut off after so many characters; '' for one that is not.
  text(name, most) {
    try {
      return (localStorage.getItem(`ftlab.${name}`) ?? '').slice(0, most);
    } catch {
      return '';
    }
  },
  // Keeps what the line of a tab says (`ftlab/tabs/kept.py`). Its button calls `anew`.
  line(element, changed, anew) {
    const keep = () => {
      const line = element.querySelector('[data-kept]');
      if (!line) return;
      const { kept, values } = line.dataset;
      if (!values) return this.remove(kept);
      this.set(kept, JSON.parse(values));
      line.querySelector('span').hidden = this.get(kept) === null;
    };
    changed(keep);
    keep();
    element.addEventListener('click', ({ target }) => {
      if (target.closest('button')) anew();
    });
  },
};
