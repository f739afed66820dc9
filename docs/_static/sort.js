// Tables of class "sortable": a click on a head sorts their lines, a second one turns them round. Without scripts they are plain tables.
document.addEventListener('DOMContentLoaded', () => document.querySelectorAll('table.sortable').forEach(table => {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const key = (row, i) => heads[i].hasAttribute('data-n') ? Number(row.cells[i].dataset.v) : row.cells[i].textContent;
  const sort = i => {
    const down = heads[i].getAttribute('aria-sort') !== 'descending', sign = down ? -1 : 1;
    heads.forEach((h, k) => h.setAttribute('aria-sort', k === i ? (down ? 'descending' : 'ascending') : 'none'));
    const order = (a, b) => a < b ? -sign : a > b ? sign : 0;
    body.append(...[...body.rows].sort((a, b) => order(key(a, i), key(b, i))));
  };
  heads.forEach((head, i) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    button.addEventListener('click', () => sort(i));
    head.append(button);
  });
  const find = document.createElement('input');
  find.type = 'search';
  find.placeholder = 'only lines with these words';
  find.addEventListener('input', () => {
    const words = find.value.toLowerCase().split(/\s+/);
    for (const row of body.rows) row.hidden = !words.every(w => row.textContent.toLowerCase().includes(w));
  });
  table.parentNode.before(find);
}));
